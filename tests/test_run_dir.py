import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from transformer.checkpoint import Checkpoints
from transformer.checkpoint_records import records
from transformer.config import Config, DataConfig, ModelConfig, SearchConfig, TokenizerConfig, TrainingConfig
from transformer.counters import Counters
from transformer.errors import InputError
from transformer.run_dir import (
    DIVERGED,
    adopt,
    check_run,
    checkpoint_steps,
    hold_run,
    is_finished,
    open_run,
    read_config,
    saved_steps,
    training_data,
)

HOLD = """
import sys
from pathlib import Path
from transformer.run_dir import hold_run
with hold_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


class State(NamedTuple):
    step: Any
    params: Any


def small_config(**fields: Any) -> Config:
    return Config(model=ModelConfig(d_model=64, num_heads=2), **fields)


def save(run_dir: Path, losses: dict[int, float | None], **arguments: Any) -> None:
    """Saves a checkpoint for each step with its validation loss; None if the step was not validated."""
    with Checkpoints(run_dir, 5, "print") as checkpoints:
        for step, loss in losses.items():
            metrics = {} if loss is None else {"validation_loss": loss}
            checkpoints.save(step, State(np.array(step), {"params": np.zeros(1)}), metrics, **arguments)


def test_open_run_makes_the_directory_once(tmp_path: Path):
    config = small_config(run_dir="here")
    run_dir = open_run(tmp_path / "a" / "run", config)
    assert run_dir == tmp_path / "a" / "run"
    assert [path.name for path in run_dir.iterdir()] == ["config.json"]
    assert read_config(run_dir) == config
    open_run(run_dir, dataclasses.replace(config, run_dir="moved"))
    assert read_config(run_dir) == config


def test_the_location_of_the_data_may_change(tmp_path: Path):
    """Only its content counts, which is compared once it is read."""
    before = small_config(data=DataConfig(train=("a.en", "a.de")), tokenizer=TokenizerConfig(file="t.json"))
    now = small_config(data=DataConfig(corpus="all.jsonl", split_key="part"))
    open_run(tmp_path, before)
    check_run(tmp_path, now)
    with pytest.raises(InputError, match=r"--data\.max-length was 256 and is now 100"):
        check_run(tmp_path, small_config(data=DataConfig(max_length=100)))


def test_fields_that_change_no_step_may_change_and_are_recorded(run: Path):
    before = read_config(run)
    save(run, {10: 3.0})
    now = dataclasses.replace(
        before,
        search=SearchConfig(beam_size=1),
        training=dataclasses.replace(before.training, steps=200, patience=None),
    )
    adopt(run, before)
    assert not (run / "changes.jsonl").exists()
    adopt(run, now)
    adopt(run, now)
    assert read_config(run) == now
    save(run, {20: 3.0})
    adopt(run, before)
    assert [json.loads(line) for line in (run / "changes.jsonl").read_text().splitlines()] == [
        {
            "step": 10,
            "changed": {
                "training.steps": {"before": 100, "now": 200},
                "training.patience": {"before": 3, "now": None},
                "search.beam_size": {"before": 4, "now": 1},
            },
        },
        {
            "step": 20,
            "changed": {
                "training.steps": {"before": 200, "now": 100},
                "training.patience": {"before": None, "now": 3},
                "search.beam_size": {"before": 1, "now": 4},
            },
        },
    ]


def test_a_checkpoint_beyond_the_last_step_is_refused(run: Path):
    before = read_config(run)
    save(run, {40: 3.0, 60: 3.0})
    with pytest.raises(InputError, match=r"--training\.steps was 100 and is now 50, but 60 steps have"):
        check_run(run, dataclasses.replace(before, training=dataclasses.replace(before.training, steps=50)))
    save(run, {120: 3.0})
    with pytest.raises(InputError, match=r"a checkpoint of step 120, beyond the 100 steps of its config"):
        check_run(run, before)
    for chosen in ("last", "best"):
        with pytest.raises(InputError, match=r"a checkpoint of step 120, beyond the 100 steps of its config"):
            checkpoint_steps(run, chosen)
    assert checkpoint_steps(run, 60) == [60]
    assert is_finished(run)


def test_a_checkpoint_without_its_metadata_is_not_chosen(run: Path):
    save(run, {10: 3.0, 20: 2.0})
    (run / "checkpoints" / "20" / "_CHECKPOINT_METADATA").unlink()
    assert checkpoint_steps(run) == [10]
    assert saved_steps(run) == [10]
    assert [(record.step, record.fingerprint) for record in records(run)] == [(10, "print"), (20, None)]


def test_a_run_is_held_by_one_process(tmp_path: Path):
    holder = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=r"Another process is training in the run directory .* --run-dir"),
            hold_run(tmp_path),
        ):
            pass
        process.kill()  # leaves no lock that a user would have to delete
    with hold_run(tmp_path):
        pass


def test_open_run_refuses_another_config(tmp_path: Path):
    open_run(tmp_path, small_config())
    other = dataclasses.replace(small_config(), model=ModelConfig(d_model=128, num_heads=2))
    with pytest.raises(InputError, match=r"with another config: --model\.d-model was 64 and is now 128"):
        open_run(tmp_path, other)
    with pytest.raises(InputError, match="--seed was 0 and is now 1"):
        open_run(tmp_path, small_config(seed=1))


def test_open_run_refuses_directories_that_are_not_its_own(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="neither empty nor a run directory"):
        open_run(tmp_path, small_config())
    with pytest.raises(InputError, match=r"Cannot create the run directory .*: Not a directory"):
        open_run(tmp_path / "notes.txt" / "run", small_config())
    with pytest.raises(InputError, match="is a file"):
        open_run(tmp_path / "notes.txt", small_config())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_open_run_refuses_a_directory_that_is_not_writable(tmp_path: Path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(InputError, match="cannot be written to"):
        open_run(tmp_path, small_config())


def test_read_config_takes_a_byte_order_mark(tmp_path: Path):
    file = open_run(tmp_path, small_config()) / "config.json"
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    assert read_config(tmp_path) == small_config()


def test_read_config_says_what_is_wrong(tmp_path: Path):
    with pytest.raises(InputError, match=r"is not a run directory: it has no config\.json"):
        read_config(tmp_path)
    for text, reason in [("{", "not valid JSON"), ('{"sed": 1}', "a field sed"), ('{"seed": -1}', "seed must not be")]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=rf"Cannot read .*config\.json\. .*{reason}"):
            read_config(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return open_run(tmp_path / "run", small_config(average=2, training=TrainingConfig(steps=100, patience=3)))


def test_chooses_the_named_checkpoint_and_those_before_it(run: Path):
    save(run, {1: 4.0, 2: 2.0, 3: 3.0, 4: 3.5})
    assert checkpoint_steps(run, "last", 1) == [4]
    assert checkpoint_steps(run, "best", 1) == [2]
    assert checkpoint_steps(run, 3, 1) == [3]
    assert checkpoint_steps(run, 3, 3) == [1, 2, 3]


def test_averages_the_configured_number_only_at_the_last_checkpoint(run: Path):
    save(run, {1: 4.0})
    assert checkpoint_steps(run) == [1]
    save(run, {2: 2.0, 3: 3.0})
    assert checkpoint_steps(run) == [2, 3]
    assert checkpoint_steps(run, "best") == [2]
    assert checkpoint_steps(run, 3) == [3]


def test_the_best_checkpoint_was_validated(run: Path):
    save(run, {1: None, 2: None})
    assert checkpoint_steps(run, "best") == [2]  # without any validation, the last one
    save(run, {3: 2.5, 4: 2.0, 5: None})
    assert checkpoint_steps(run, "best") == [4]
    save(run, {6: 2.0, 7: 2.1})
    assert checkpoint_steps(run, "best") == [6]  # the later of two equal losses


def test_errors_name_the_existing_checkpoints(run: Path):
    with pytest.raises(InputError, match=r"No checkpoint found in .*checkpoints"):
        checkpoint_steps(run)
    save(run, {10: 3.0, 20: 2.0})
    with pytest.raises(InputError, match=r"Cannot find .* step 15: .* only has checkpoints of steps 10, 20\."):
        checkpoint_steps(run, 15)
    with pytest.raises(InputError, match=r"Cannot average 3 checkpoints up to step 20: .* of steps 10, 20\."):
        checkpoint_steps(run, "last", average=3)
    with pytest.raises(InputError, match=r"Cannot average 2 checkpoints up to step 10"):
        checkpoint_steps(run, 10, average=2)


@pytest.mark.parametrize("checkpoint", ["lst", "20", 1.5, None])
def test_a_checkpoint_is_last_best_or_a_step(run: Path, checkpoint: Any):
    save(run, {10: 3.0})
    unchecked = inspect.unwrap(checkpoint_steps)  # as users call it, without the type checks of the tests
    guess = r" Did you mean last\?" if checkpoint == "lst" else ""
    with pytest.raises(InputError, match=rf"must be last, best or a step, but is {checkpoint!r}\.{guess}$"):
        unchecked(run, checkpoint)
    assert unchecked(run, np.int64(10)) == [10]


def test_a_resume_only_checkpoint_is_not_chosen(run: Path):
    save(run, {5: None}, resume_only=True)
    with pytest.raises(InputError, match=r"No checkpoint found in .*checkpoints"):
        checkpoint_steps(run)
    save(run, {10: 3.0, 20: 2.0})
    save(run, {25: None}, resume_only=True)
    assert saved_steps(run) == [10, 20]
    assert checkpoint_steps(run, average=2) == [10, 20]
    assert checkpoint_steps(run, "best") == [20]
    with pytest.raises(InputError, match=r"Cannot find .* step 25: .* only has checkpoints of steps 10, 20\."):
        checkpoint_steps(run, 25)
    assert [(record.step, record.resume_only) for record in records(run)] == [(10, False), (20, False), (25, True)]


def test_a_run_is_finished_at_its_last_step_or_when_its_patience_is_over(run: Path):
    assert not is_finished(run)
    save(run, {5: None}, resume_only=True)
    assert not is_finished(run)
    save(run, {10: 3.0}, counters=Counters(best_loss=2.0, validations_since_best=2))
    assert not is_finished(run)
    save(run, {20: 3.0}, counters=Counters(best_loss=2.0, validations_since_best=3))
    assert is_finished(run)
    save(run, {30: 1.0}, counters=Counters(best_loss=1.0))
    assert not is_finished(run)
    (run / DIVERGED).write_text("Training diverged.")
    assert is_finished(run)
    (run / DIVERGED).unlink()
    save(run, {100: None}, resume_only=True)
    assert not is_finished(run)  # a signal came during the last validation
    save(run, {100: 3.0})
    assert is_finished(run)


def test_a_run_of_an_earlier_version_is_finished_by_its_patience(run: Path, monkeypatch: pytest.MonkeyPatch):
    """It has no counters, but a checkpoint for each validation."""
    monkeypatch.setattr(Counters, "_asdict", lambda _: None)
    save(run, {10: 3.0, 20: 2.0, 30: 2.5, 40: 2.4})
    assert not is_finished(run)
    save(run, {50: 2.1})
    assert is_finished(run)


def test_a_run_records_which_data_it_was_trained_on(tmp_path: Path):
    assert training_data(tmp_path) is None
    (tmp_path / "data.json").write_text(json.dumps({"train": {"sha256": "of ids, as earlier versions had it"}}))
    assert training_data(tmp_path) is None
    (tmp_path / "data.json").write_text(json.dumps({"train": {"fingerprint": "abc"}}))
    assert training_data(tmp_path) == "abc"

"""Readers of a run notice a damaged file, name the checkpoint and use the newest sound one."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from transformer.checkpoint import Checkpoints
from transformer.checkpoint_records import Record, records
from transformer.config import Config, DataConfig, TrainingConfig
from transformer.errors import InputError
from transformer.inference.loading import load_chosen
from transformer.kept_pairs import read_test_set
from transformer.manifest import MANIFEST
from transformer.run_dir import data_fingerprints, open_run


class State(NamedTuple):
    step: Any
    params: Any
    moments: Any


def state(step: int) -> State:
    values = {"w": np.full(1000, step, np.float32)}
    return State(np.array(step), {"params": values}, values)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = open_run(tmp_path_factory.mktemp("saved") / "run", Config(training=TrainingConfig(steps=30)))
    with Checkpoints(run, 3, "print") as checkpoints:
        for step, loss in ((10, 3.0), (20, 2.0), (30, 1.0)):
            checkpoints.save(step, state(step), {"validation_loss": loss})
    return run


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


# The kinds of files, and who reads them: what loads parameters ("all") or only what resumes.
FILES = {
    MANIFEST: "all",
    "_CHECKPOINT_METADATA": "all",
    "metrics/metrics": "all",
    "params/_METADATA": "all",
    "params/manifest.ocdbt": "all",
    "params/ocdbt.process_0/d/*": "all",
    "rest/_METADATA": "resuming",
    "rest/ocdbt.process_0/d/*": "resuming",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_the_newest_sound_checkpoint_is_used(run: Path, name: str, damage: Callable[[Path], None]):
    largest = max((run / "checkpoints" / "30").glob(name), key=lambda file: file.stat().st_size)
    damage(largest)
    said: list[str] = []
    steps, variables = load_chosen(run, "last", None, "print", said.append)
    if FILES[name] == "all":
        assert steps == [20]
        assert said == [f"Using the checkpoint of step 20 of {run} because the checkpoint of step 30 cannot be read."]
        with pytest.raises(InputError, match=r"The checkpoint of step 30 .*cannot be read"):
            load_chosen(run, 30, None, "print", said.append)
    else:
        assert (steps, said) == ([30], [])
    np.testing.assert_array_equal(variables["params"]["w"], steps[0])
    assert not (run / "damaged").exists()  # a reader moves nothing
    said.clear()
    with Checkpoints(run, 3, "print") as checkpoints:
        step, restored = checkpoints.restore_latest(state(0), said.append)
    assert step == restored.step == 20
    np.testing.assert_array_equal(restored.moments["w"], 20)
    assert said == [f"The checkpoint of step 30 is damaged. It was moved to {run}/damaged/30."]
    assert [record.step for record in records(run)] == [10, 20]
    assert (run / "damaged" / "30").is_dir()


def test_the_damaged_file_is_named(run: Path):
    (file,) = (run / "checkpoints" / "20" / "params" / "d").iterdir()
    flip(file)
    with pytest.raises(InputError, match=rf"is damaged \(params/d/{file.name}\) and cannot be read\."):
        load_chosen(run, 20, None, "print", pytest.fail)  # pyright: ignore[reportArgumentType]
    shutil.rmtree(run / "checkpoints" / "20" / "params")
    with pytest.raises(InputError, match=r"is damaged \(params/_METADATA and \d+ other files\)"):
        load_chosen(run, 20, None, "print", pytest.fail)  # pyright: ignore[reportArgumentType]


def test_an_earlier_checkpoint_without_its_metadata_is_set_aside_too(run: Path):
    (run / "checkpoints" / "10" / "metrics" / "metrics").write_text('{"validation_loss": 0.5}')  # once the best one
    said: list[str] = []
    assert records(run)[0] == Record(10, np.inf)
    with Checkpoints(run, 3, "print") as checkpoints:
        assert checkpoints.restore_latest(state(0), said.append)[0] == 30
    assert said == [f"The checkpoint of step 10 is damaged. It was moved to {run}/damaged/10."]
    assert [record.step for record in records(run)] == [20, 30]


def test_a_checkpoint_of_an_earlier_version_loads_unverified_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = open_run(tmp_path / "run", Config(average=2))
    monkeypatch.setattr("transformer.checkpoint_files.write_manifest", lambda folder: None)
    with Checkpoints(run, 3, "print") as checkpoints:
        checkpoints.save(10, state(10), {})
        checkpoints.save(20, state(20), {})
    with pytest.raises(InputError, match=r"The checkpoints of steps 10 and 20 cannot be read\."):
        load_chosen(run, "last", None, "print", pytest.fail)  # pyright: ignore[reportArgumentType]
    for step in ("10", "20"):
        file = run / "checkpoints" / step / "_CHECKPOINT_METADATA"
        file.write_text(re.sub(r', "has_manifest": true', "", file.read_text()))
    said: list[str] = []
    assert load_chosen(run, "last", None, "print", said.append)[0] == [10, 20]
    with Checkpoints(run, 3, "print") as checkpoints:
        assert checkpoints.restore_latest(state(0), said.append)[0] == 20
    assert said == [
        f"No checksums were saved with the checkpoints of steps 10 and 20 of {run}, so damage may go unnoticed.",
        "No checksums were saved with the checkpoint of step 20, so damage may go unnoticed.",
    ]


def test_a_process_killed_before_the_manifest_leaves_no_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(folder: Path) -> None:
        assert {"params", "rest", "metrics", "_CHECKPOINT_METADATA"} <= {path.name for path in folder.iterdir()}
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformer.checkpoint_files.write_manifest", killed)
    with pytest.raises(InputError, match="Could not write"), Checkpoints(run, 3, "print") as checkpoints:
        checkpoints.save(40, state(40), {})
    monkeypatch.undo()
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["10", "20", "30", "40.orbax-checkpoint-tmp-unsealed"]
    assert [record.step for record in records(run)] == [10, 20, 30]
    with Checkpoints(run, 3, "print") as checkpoints:
        checkpoints.save(40, state(40), {})
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["20", "30", "40"]


def test_damage_to_the_kept_test_set_is_noticed(run: Path):
    config = DataConfig(source_language="en", target_language="de")
    (run / "test.jsonl").write_text('{"en": "red", "de": "rot"}\n')
    pairs = read_test_set(run, config)
    (run / "data.json").write_text(f'{{"test": {{"fingerprint": "{pairs.fingerprint}"}}}}')
    assert read_test_set(run, config) == pairs
    (run / "test.jsonl").write_text('{"en": "red", "de": "rut"}\n')
    with pytest.raises(InputError, match=r"The test pairs of the run in .* differ .* Restore the file, or give"):
        read_test_set(run, config)
    for text in ('{"test', "[1]", '{"test": 1}'):
        (run / "data.json").write_text(text)
        with pytest.raises(InputError, match=r"data\.json is damaged \(.*\)\. Restore it, or delete it"):
            data_fingerprints(run)

import json
import math
from pathlib import Path

import numpy as np
import pytest

from transformer.analysis.history import read_histories
from transformer.config import Config, OptimizerConfig
from transformer.config_files import to_json
from transformer.errors import InputError
from transformer.training.metrics import MetricsLog


def make_run(folder: Path, **fields) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(Config(**fields)))
    with MetricsLog(folder / "metrics.jsonl", 0) as log:
        log.write(5, loss=3.5, learning_rate=1e-3)
        log.write(10, loss=2.5, learning_rate=2e-3)
        log.write(10, validation_loss=2.0, validation_bleu=math.nan)
    return folder


def test_what_was_logged_comes_back(tmp_path):
    optimizer = OptimizerConfig(warmup_steps=7)
    first, second = make_run(tmp_path / "a/seed_0", optimizer=optimizer), make_run(tmp_path / "b/seed_0")
    found, other = read_histories([first, str(second)])
    assert (found.name, other.name) == ("a/seed_0", "b/seed_0")
    assert found.config.optimizer == optimizer
    assert set(found.curves) == {"loss", "learning_rate", "validation_loss", "validation_bleu"}
    np.testing.assert_array_equal(found.curves["loss"], [[5, 10], [3.5, 2.5]])
    np.testing.assert_array_equal(found.curves["learning_rate"], [[5, 10], [1e-3, 2e-3]])
    np.testing.assert_array_equal(found.curves["validation_bleu"], [[10], [math.nan]])
    assert [history.name for history in read_histories([first])] == ["seed_0"]
    assert read_histories([]) == []


def test_a_run_that_is_being_written_can_be_read(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 15, "loss"')
    (found,) = read_histories([run])
    np.testing.assert_array_equal(found.curves["loss"].steps, [5, 10])


@pytest.mark.parametrize(
    "line",
    [
        *("{", "5", "null", '{"loss": 1.0}', '{"step": 5, "loss": "low"}', '{"step": null}', '{"step": Infinity}'),
        *(f'{{"step": 5, "loss": 1{"0" * 400}}}', "[" * 100_000),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    run = make_run(tmp_path / "run")
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(f"{line}\n{whole}")
    with pytest.raises(InputError, match=r"Line 1 of .*metrics\.jsonl is damaged\. Restore the file"):
        read_histories([run])


@pytest.mark.parametrize("text", [None, "", json.dumps({"step": 5, "validation_loss": 2.0}) + "\n"])
def test_without_a_training_loss_there_is_nothing_to_draw(tmp_path, text):
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    if text is not None:
        (run / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"The run in .* has not logged a training loss yet"):
        read_histories([run])
    with pytest.raises(InputError, match="nowhere is not a run directory"):
        read_histories([run / "nowhere"])

"""Loading from a run that is in training or has damaged checkpoints."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from transformer import checkpoint_arrays
from transformer.checkpoint import Checkpoints
from transformer.config import Config, TrainingConfig
from transformer.errors import InputError
from transformer.inference.loading import load_chosen
from transformer.run_dir import open_run, saved_steps

LOSSES = {10: 4.0, 20: 2.0, 30: 3.0, 40: 2.5}


class State(NamedTuple):
    step: Any
    params: Any


def save(run: Path, losses: dict[int, float], keep_last: int = 9) -> None:
    """Saves checkpoints whose only parameters are the number of their step."""
    with Checkpoints(run, keep_last, "print") as checkpoints:
        for step, loss in losses.items():
            params = {"params": {"w": np.full(1000, step, np.float32)}}
            checkpoints.save(step, State(np.array(step), params), {"validation_loss": loss})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four checkpoints, which averages the last two unless told otherwise."""
    run = open_run(tmp_path / "run", Config(average=2, training=TrainingConfig(steps=40)))
    save(run, LOSSES)
    return run


def overwrite_arrays(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            data = file.read_bytes()
            file.write_bytes(data[:50] + random.Random(0).randbytes(len(data) - 50))


def remove_parameters(folder: Path) -> None:
    shutil.rmtree(folder / "params")


def remove_metadata(folder: Path) -> None:
    (folder / "_CHECKPOINT_METADATA").unlink()


def truncate_metrics(folder: Path) -> None:
    file = folder / "metrics" / "metrics"
    file.write_text('{"validation_lo')


DAMAGES = [overwrite_arrays, remove_parameters, remove_metadata, truncate_metrics]


def load(run: Path, chosen: Any, average: int | None = None) -> tuple[list[int], list[str]]:
    """Loads and checks the mean of some checkpoints; their steps, and what was said."""
    said: list[str] = []
    before = sorted(run.rglob("*"))
    steps, variables = load_chosen(run, chosen, average, "print", said.append)
    assert sorted(run.rglob("*")) == before  # only the process that trains may move or delete anything
    np.testing.assert_allclose(variables["params"]["w"], np.mean(steps), rtol=1e-6)
    return steps, said


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_earlier_checkpoint_is_used_and_both_are_named(run: Path, damage: Callable[[Path], None]):
    damage(run / "checkpoints" / "40")
    for chosen, average, steps, names in (
        ("last", None, [20, 30], "the checkpoints of steps 20 and 30"),
        ("last", 1, [30], "the checkpoint of step 30"),
        ("last", 3, [10, 20, 30], "the checkpoints of steps 10, 20 and 30"),
    ):
        said = f"Using {names} of {run} because the checkpoint of step 40 cannot be read."
        assert load(run, chosen, average) == (steps, [said])
    if damage is not truncate_metrics:  # which leaves it unknown whether step 40 was the best
        assert load(run, "best") == ([20], [])
    with pytest.raises(InputError, match="step 40"):
        load(run, 40)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_best_checkpoint_is_replaced_by_the_next_best(run: Path, damage: Callable[[Path], None]):
    damage(run / "checkpoints" / "20")
    said = f"Using the checkpoint of step 40 of {run} because the checkpoint of step 20 cannot be read."
    assert load(run, "best") == ([40], [said])
    assert load(run, "last") == ([30, 40], [])
    assert load(run, 30) == ([30], [])


def test_a_mean_does_not_silently_leave_out_a_damaged_checkpoint(run: Path):
    remove_metadata(run / "checkpoints" / "20")
    said = f"Using the checkpoints of steps 10, 30 and 40 of {run} because the checkpoint of step 20 cannot be read."
    assert load(run, "last", 3) == ([10, 30, 40], [said])
    with pytest.raises(InputError, match=r"The checkpoint of step 20 cannot be read\."):
        load(run, "last", 4)
    for step in (10, 30):
        remove_metadata(run / "checkpoints" / str(step))
    names = "the checkpoints of steps 10, 20 and 30"
    assert load(run, "last") == ([40], [f"Using the checkpoint of step 40 of {run} because {names} cannot be read."])


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_readable_checkpoint_the_error_names_all(run: Path, damage: Callable[[Path], None]):
    for step in LOSSES:
        damage(run / "checkpoints" / str(step))
    with pytest.raises(InputError, match=r"The checkpoints of steps 10, 20, 30 and 40 cannot be read\."):
        load(run, "best")


@pytest.mark.parametrize("chosen", ["last", "best"])
def test_a_chosen_checkpoint_that_is_deleted_meanwhile_is_chosen_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
):
    """The training process replaces the chosen checkpoint before it is read."""
    run = open_run(tmp_path / "run", Config(training=TrainingConfig(keep_last=1)))
    save(run, {1: 1.0}, keep_last=1)

    def read(manager: Any, step: int, read: Any = checkpoint_arrays.read) -> Any:
        if step == 1:
            save(run, {2: 0.5}, keep_last=1)
        return read(manager, step)

    monkeypatch.setattr(checkpoint_arrays, "read", read)
    steps, variables = load_chosen(run, chosen, None, "print", pytest.fail)  # pyright: ignore[reportArgumentType]
    assert steps == saved_steps(run) == [2]
    np.testing.assert_array_equal(variables["params"]["w"], 2)

"""The option `transformer train --verify-resume`, which checks that a config resumes bit for bit on this machine."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import transformer
from transformer.config import Config
from transformer.config_files import to_json
from transformer.errors import require
from transformer.interruption import immediate
from transformer.run_dir import CHECKPOINTS
from transformer.runtime import leave_accelerators

STEPS, SAVED = 6, 4  # steps of a run, and the step of the checkpoint that it is resumed from
# A line of the log includes steps before and after the checkpoint, and a validation follows the checkpoint.
LOG_EVERY, VALIDATE_EVERY = 3, 5
DIFFERENT = 1  # exit status


class Outcome(NamedTuple):
    """What a run has after its last step.

    arrays: Parameters, running statistics and optimizer state, by path.
    log: Lines of `metrics.jsonl` without speeds.
    """

    arrays: dict[str, np.ndarray]
    log: list[dict[str, Any]]


def verify_resume(config: Config) -> None:
    """Checks that resuming changes no bit, and prints the result.

    One process trains from the start, and another one resumes from a checkpoint of the first. If the results differ, a
    third process trains from the start again, which shows whether uninterrupted runs are equal on this machine.

    Args:
        config: The experiment. Its run directory is neither read nor written.

    Raises:
        InputError: The config has too few steps.
        SystemExit: The results differ, or a run has failed and printed why.
        Interrupted: A signal has arrived.
    """
    require(
        config.training.steps >= STEPS,
        f"--verify-resume trains {STEPS} steps, but --training.steps is {config.training.steps}. Raise it to at least "
        f"{STEPS}.",
    )
    leave_accelerators()
    with immediate(), tempfile.TemporaryDirectory(prefix="transformer-") as folder:
        run = Path(folder) / "run"
        print(f"Training {STEPS} steps in {run} ...", flush=True)
        first = trained(config, run)
        print(f"Resuming from the checkpoint of step {SAVED} in a new process ...", flush=True)
        shutil.rmtree(run / CHECKPOINTS / str(STEPS))
        resumed = trained(config, run)
        if (found := differences(first, resumed)) is None:
            print(verdict(config, first))
            return
        print(f"The results differ. Training {STEPS} steps from the start again, to find out why ...", flush=True)
        shutil.rmtree(run / CHECKPOINTS)
        again = trained(config, run)
    print(verdict(config, first, found, differences(first, again)))
    raise SystemExit(DIFFERENT)


def trained(config: Config, run: Path) -> Outcome:
    """What a run has after step `STEPS`, to which a new process trains it from its last checkpoint.

    Raises: SystemExit if training has failed, with the exit status of that process. It has printed why.
    """
    training = dataclasses.replace(
        config.training,
        log_every=LOG_EVERY,
        validate_every=VALIDATE_EVERY,
        save_every=SAVED,
        save_minutes=None,
        validation_bleu=False,
        patience=None,
        keep_last=1,
    )
    text = to_json(dataclasses.replace(config, training=training, average=1))
    file = run.with_name("config.py")
    file.write_text(f"from transformer.config_files import from_json\n\nconfig = from_json({text!r})\n", "utf-8")
    given = ("--config", str(file), "--run-dir", str(run), "--stop-after", str(STEPS))
    package = str(Path(transformer.__file__).parents[1])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.run(
        [sys.executable, "-m", "transformer", "train", *given],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path},
    )
    if process.returncode:
        raise SystemExit(process.returncode if process.returncode > 0 else 128 - process.returncode)
    return outcome(run, STEPS)


def outcome(run: Path, step: int) -> Outcome:
    """The arrays of a run's checkpoint, and the log of the run."""
    from transformer.checkpoint_arrays import load_arrays
    from transformer.training.metrics import SPEEDS

    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    log = [{name: value for name, value in line.items() if name not in SPEEDS} for line in lines]
    return Outcome(load_arrays(run, step), log)


def differences(expected: Outcome, found: Outcome) -> str | None:
    """Describes how two outcomes of the same config differ; None if all bits are equal."""
    different = {
        name: np.nanmax(np.abs(np.subtract(array, found.arrays[name], dtype=np.float64)))
        for name, array in expected.arrays.items()
        if array.tobytes() != found.arrays[name].tobytes()
    }
    if different:
        largest = max(different, key=lambda name: different[name])
        return (
            f"{len(different)} of {len(expected.arrays)} arrays differ, first {next(iter(different))}, and most "
            f"{largest} by up to {different[largest]:.1e}"
        )
    lines = zip_longest(expected.log, found.log)
    return next((f"the log differs: {ours} and {theirs}" for ours, theirs in lines if ours != theirs), None)


def verdict(config: Config, first: Outcome, resumed: str | None = None, again: str | None = None) -> str:
    """What to tell the user.

    Args:
        config: The experiment.
        first: What the uninterrupted run has.
        resumed: How the resumed run differs from it; None if it is equal.
        again: How another uninterrupted run differs from it.
    """
    if resumed is None:
        from transformer.parameters import fingerprint

        return (
            f"Resuming is exact. After step {STEPS}, parameters, optimizer state and log of the resumed run equal "
            f"those of the uninterrupted run, bit for bit (SHA-256 of the arrays: {fingerprint(first.arrays)})."
        )
    if again is None:
        return (
            f"Resuming is NOT exact: after step {STEPS}, {resumed}. Two uninterrupted runs are equal, so this is a "
            "fault of resuming. Please report it with the config."
        )
    advice = "" if config.deterministic else " On a GPU, --deterministic makes runs repeatable."
    return (
        "Resuming cannot be exact here, because two uninterrupted runs already differ: after step "
        f"{STEPS}, {again}.{advice}"
    )

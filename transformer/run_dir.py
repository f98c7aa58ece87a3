"""The run directory: what is in it, and whose it is. It has all that resuming, evaluating or looking into a run needs.

RUN/config.json         the resolved config
RUN/changes.jsonl       what was changed in it when the run was resumed, and at which step
RUN/tokenizer.json      the tokenizer
RUN/data.json           what was read, and what was dropped
RUN/validation.jsonl    the validation set
RUN/test.jsonl          the test set
RUN/metrics.jsonl       losses and scores along the way
RUN/checkpoints/STEP/   arrays (see `checkpoint.py`)
RUN/damaged/STEP        a checkpoint that could not be read when the run was resumed
RUN/diverged.txt        why training has ended before its time, if it has diverged
RUN/scores.json         the final scores
RUN/hypotheses.txt      the translations of the test set
RUN/evaluation/STEP     an evaluation of each checkpoint, from `evaluate --watch`
RUN/.lock               held by the process that trains
"""

import json
import logging
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import orbax.checkpoint as ocp
from filelock import FileLock, Timeout

from transformer.changes import changes
from transformer.config import Config
from transformer.config_files import from_json, to_json
from transformer.counters import Counters
from transformer.errors import InputError
from transformer.files import PART, write_whole

# Orbax reports its routine on absl's logger, and absl sends it to stderr. What goes wrong it raises as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)

DIVERGED = "diverged.txt"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"
LAYOUT = 2  # of the parameters; version 0.1 had no number, and each layer was a module of its own


class Record(NamedTuple):
    """What is known of a checkpoint without reading its arrays.

    step: updates made.
    validation_loss: in nats per target token; infinite if there was no validation at this step.
    fingerprint: the tokenizer's; None if the checkpoint has lost what it says of itself.
    layout: how the parameters are arranged: `LAYOUT`, or 1 for version 0.1.
    resume_only: saved off the regular cadence, to lose less work. Such a checkpoint is never evaluated or averaged, and
        the next save deletes it.
    counters: those of the training loop.
    """

    step: int
    validation_loss: float
    fingerprint: str | None = None
    layout: int = LAYOUT
    resume_only: bool = False
    counters: Counters = Counters()


def check_run(run_dir: str | Path, config: Config) -> None:
    """Checks that a directory can be that of a run with this config; makes and changes nothing.

    Args:
        run_dir: The directory, which need not exist.
        config: The resolved config. It may differ from the run's where `changes` allows it.

    Raises: InputError if the directory belongs to another config, has files in it but no `config.json`, or is a file;
        or if a checkpoint lies beyond the last step.
    """
    run_dir = Path(run_dir).resolve()
    nearest = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"The run directory {run_dir} cannot be written to. Give another --run-dir.")
    if (run_dir / "config.json").exists():
        checkpoints = records(run_dir)
        if any(record.layout != LAYOUT for record in checkpoints):
            raise InputError(
                f"The run in {run_dir} was made by version 0.1, whose parameters were arranged otherwise. It can be "
                "translated with and evaluated, but not resumed: give another --run-dir."
            )
        step = checkpoints[-1].step if checkpoints else 0
        try:
            changes(read_config(run_dir), config, step)
        except InputError as error:
            raise InputError(
                f"The run directory {run_dir} is of another config: {error} Give the same config to resume that run, "
                "or another --run-dir."
            ) from error
        if step > config.training.steps:
            raise InputError(
                f"The run directory {run_dir} has a checkpoint of step {step}, beyond the {config.training.steps} "
                "steps of its config. Raise --training.steps, or remove that checkpoint."
            )
    elif run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"The run directory {run_dir} is a file. Give another --run-dir.")
    elif run_dir.exists() and any(path.suffix != PART for path in run_dir.iterdir()):
        raise InputError(
            f"The run directory {run_dir} is neither empty nor that of a run (it has no config.json). Give another "
            "--run-dir."
        )


def open_run(run_dir: str | Path, config: Config) -> Path:
    """Makes the run directory and writes its `config.json`, or finds one that was made for this config.

    Args:
        run_dir: The directory.
        config: The resolved config.

    Returns: The directory, as an absolute path.

    Raises: InputError if `check_run` does, or the directory cannot be made or written to.
    """
    run_dir = Path(run_dir).resolve()
    check_run(run_dir, config)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The run directory {run_dir} cannot be made: {error.strerror}.") from error
    if not (run_dir / "config.json").exists():
        write_whole(run_dir / "config.json", to_json(config).encode())
    return run_dir


def adopt(run_dir: Path, config: Config) -> None:
    """Makes a config the run's, and appends what it changes to `changes.jsonl`, with the step it was changed at.

    The caller holds the run.

    Raises: InputError if `check_run` does.
    """
    check_run(run_dir, config)
    step = max((record.step for record in records(run_dir)), default=0)
    changed = changes(read_config(run_dir), config, step)
    if not changed:
        return
    line = {"step": step, "changed": {name: {"before": old, "now": new} for name, (old, new) in changed.items()}}
    file = run_dir / "changes.jsonl"
    kept = file.read_bytes() if file.exists() else b""
    write_whole(file, kept + f"{json.dumps(line, ensure_ascii=False)}\n".encode())
    write_whole(run_dir / "config.json", to_json(config).encode())


@contextmanager
def hold_run(run_dir: Path) -> Iterator[None]:
    """Keeps every other process from training in a run directory; the hold ends with the process at the latest.

    Raises: InputError if another process holds it.
    """
    try:
        with FileLock(run_dir / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"Another process is training in the run directory {run_dir}. Wait for it, or give another --run-dir."
        ) from error


def read_config(run_dir: str | Path) -> Config:
    """The config that a run was made with.

    Raises: InputError if the directory is not that of a run, or its `config.json` cannot be understood.
    """
    file = Path(run_dir) / "config.json"
    if not file.is_file():
        raise InputError(f"{run_dir} is not the directory of a run: it has no config.json.")
    try:
        return from_json(file.read_text(encoding="utf-8-sig"))  # an editor may leave a byte-order mark
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be used. {error}") from error


def data_fingerprints(run_dir: str | Path) -> dict[str, str]:
    """The fingerprint of each split that a run was begun with, as far as it says."""
    file = Path(run_dir) / "data.json"
    reports = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {split: report["fingerprint"] for split, report in reports.items() if "fingerprint" in report}


def training_data(run_dir: str | Path) -> str | None:
    """The fingerprint of the training pairs that a run was begun with; None if it does not say."""
    return data_fingerprints(run_dir).get("train")


def is_finished(run_dir: str | Path) -> bool:
    """Whether training is over: the run has the checkpoint of its last step, its patience is over, or it diverged."""
    if (Path(run_dir) / DIVERGED).exists():
        return True
    training, checkpoints = read_config(run_dir).training, records(run_dir)
    if not checkpoints or checkpoints[-1].resume_only:
        return False
    return checkpoints[-1].step == training.steps or checkpoints[-1].counters.out_of_patience(training.patience)


def records(run_dir: str | Path) -> list[Record]:
    """All checkpoints that a run has, ascending."""
    options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0, lightweight_initialize=True
    )
    found: list[Record] = []
    directory = Path(run_dir).resolve() / CHECKPOINTS
    with ocp.CheckpointManager(directory, options=options) as manager:
        for step in manager.all_steps():
            try:
                about = dict(manager.metadata(step).custom_metadata or {})
                loss = validation_loss(manager.metrics(step))
            except FileNotFoundError:  # deleted meanwhile by the process that trains
                continue
            except (ValueError, OSError):
                about, loss = {}, math.inf
            if "fingerprint" not in about:  # damaged, since every version has written one
                if (directory / str(step)).exists():
                    found.append(Record(step, loss))
                continue
            counted = about.pop("counters", None)
            if counted is None:  # an earlier version, which saved exactly where it validated
                counters = found[-1].counters if found else Counters()
                counters = counters.after_validation(loss) if math.isfinite(loss) else counters
            else:
                counters = Counters(**counted)
            found.append(Record(step, loss, **{"layout": 1, **about}, counters=counters))
    return found


def validation_loss(metrics: Mapping[str, float] | None) -> float:
    """The validation loss among a checkpoint's metrics, or infinity: then it is not better than any other."""
    value = (metrics or {}).get("validation_loss", math.inf)
    return value if math.isfinite(value) else math.inf


def best(checkpoints: Sequence[Record]) -> int | None:
    """The step of the lowest validation loss, the last of equals; the last step if none was validated.

    Steps are validated and saved at intervals of their own: the best is one at which both were done.
    """
    return min(checkpoints, key=lambda record: (record.validation_loss, -record.step)).step if checkpoints else None


def saved_steps(run_dir: str | Path) -> list[int]:
    """The steps of the checkpoints that can be evaluated, ascending."""
    return [record.step for record in _regular(run_dir)]


def checkpoint_steps(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int = "last",
    average: int | None = None,
    without: Collection[int] = (),
) -> list[int]:
    """The steps of the checkpoints to average, ascending: the chosen one and the `average - 1` before it.

    Args:
        run_dir: The run directory.
        checkpoint: The one of lowest validation loss, the last one, or the one of a step.
        average: If None, the configured number for the last checkpoint (fewer if fewer exist), and 1 for any other.
        without: Steps that are left out.

    Raises: InputError if the directory is not that of a run, or it has no checkpoint, not this one, or not as many.
    """
    config = read_config(run_dir)
    regular = [record for record in _regular(run_dir) if record.step not in without]
    if not regular:
        raise InputError(f"There is no checkpoint in {Path(run_dir) / CHECKPOINTS}.")
    steps = [record.step for record in regular]
    if steps[-1] > config.training.steps and isinstance(checkpoint, str):
        raise InputError(
            f"{run_dir} has a checkpoint of step {steps[-1]}, beyond the {config.training.steps} steps of its config. "
            "Name the step to use it all the same (--checkpoint), or remove it."
        )
    if average is None:
        average = min(config.average, len(steps)) if checkpoint == "last" else 1
    step = {"best": best(regular), "last": steps[-1]}[checkpoint] if isinstance(checkpoint, str) else checkpoint
    there = f"{run_dir} has those of the steps {', '.join(map(str, steps))}."
    if step not in steps:
        raise InputError(f"There is no checkpoint of step {step}: {there}")
    end = steps.index(step) + 1
    if not 1 <= average <= end:
        raise InputError(f"Of step {step} and before, {average} checkpoints cannot be averaged: {there}")
    return steps[end - average : end]


def _regular(run_dir: str | Path) -> list[Record]:
    """The checkpoints that can be evaluated, ascending; not those that have lost what they say of themselves."""
    return [record for record in records(run_dir) if not record.resume_only and record.fingerprint is not None]

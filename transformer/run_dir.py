"""The run directory: what is in it, and whose it is. It has all that resuming, evaluating or looking into a run needs.

RUN/config.json         the resolved config
RUN/tokenizer.json      the tokenizer
RUN/data.json           what was read, and what was dropped
RUN/test.jsonl          the test set
RUN/metrics.jsonl       losses and scores along the way
RUN/checkpoints/STEP/   arrays (see `checkpoint.py`)
RUN/diverged.txt        why training has ended before its time, if it has diverged
RUN/scores.json         the final scores
RUN/hypotheses.txt      the translations of the test set
RUN/evaluation/STEP     an evaluation of each checkpoint, from `evaluate --watch`
RUN/.lock               held by the process that trains
"""

import dataclasses
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orbax.checkpoint as ocp
from filelock import FileLock, Timeout

from transformer.config import Config
from transformer.config_files import from_json, to_json
from transformer.data.text import locate
from transformer.errors import InputError
from transformer.files import PART, write_whole

# Orbax reports its routine on absl's logger, and absl sends it to stderr. What goes wrong it raises as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)

DIVERGED = "diverged.txt"
CHECKPOINTS = "checkpoints"
LAYOUT = 2  # of the parameters; version 0.1 had no number, and each layer was a module of its own


class Counters(NamedTuple):
    """What the training loop counts on the host. With it, a resumed run logs and stops as an uninterrupted one.

    loss_sum: training loss since the last line of the log, in nats.
    target_tokens: target tokens since the last line of the log.
    best_loss: the lowest validation loss so far, in nats per target token.
    validations_since_best: validations after the one with the lowest loss.
    """

    loss_sum: float = 0.0
    target_tokens: float = 0.0
    best_loss: float | None = None
    validations_since_best: int = 0

    def after_validation(self, loss: float) -> "Counters":
        """The counters once a validation has found a loss; the last of equal losses is the best."""
        if self.best_loss is None or loss <= self.best_loss:
            return self._replace(best_loss=loss, validations_since_best=0)
        return self._replace(validations_since_best=self.validations_since_best + 1)

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether a run stops because of `training.patience`."""
        return patience is not None and self.validations_since_best >= patience


class Record(NamedTuple):
    """What is known of a checkpoint without reading its arrays.

    step: updates made.
    validation_loss: in nats per target token; infinite if there was no validation at this step.
    fingerprint: the tokenizer's.
    layout: how the parameters are arranged: `LAYOUT`, or 1 for version 0.1.
    resume_only: saved off the regular cadence, to lose less work. Such a checkpoint is never evaluated or averaged, and
        the next save deletes it.
    counters: those of the training loop.
    """

    step: int
    validation_loss: float
    fingerprint: str | None = None
    layout: int = 1
    resume_only: bool = False
    counters: Counters = Counters()


def check_run(run_dir: str | Path, config: Config) -> None:
    """Checks that a directory can be that of a run with this config; makes and changes nothing.

    Args:
        run_dir: The directory, which need not exist.
        config: The resolved config. Its own `run_dir` does not count in the comparison with the one that is there, nor
            does whether the path of a file is absolute or relative.

    Raises: InputError if the directory belongs to another config, has files in it but no `config.json`, or is a file.
    """
    run_dir = Path(run_dir).resolve()
    nearest = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"The run directory {run_dir} cannot be written to. Give another --run-dir.")
    if (run_dir / "config.json").exists():
        if any(record.layout != LAYOUT for record in records(run_dir)):
            raise InputError(
                f"The run in {run_dir} was made by version 0.1, whose parameters were arranged otherwise. It can be "
                "translated with and evaluated, but not resumed: give another --run-dir."
            )
        there, here = _fields(read_config(run_dir)), _fields(config)
        for name, value in here.items():
            if there[name] != value:
                raise InputError(
                    f"The run directory {run_dir} is of another config: {name} is {there[name]!r} there and {value!r} "
                    "here. Give the same config to resume that run, or another --run-dir."
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


def training_data(run_dir: str | Path) -> str | None:
    """The fingerprint of the training pairs that a run was begun with; None if it does not say."""
    file = Path(run_dir) / "data.json"
    return json.loads(file.read_text(encoding="utf-8"))["train"].get("fingerprint") if file.exists() else None


def is_finished(run_dir: str | Path) -> bool:
    """Whether training is over: the run has the checkpoint of its last step, its patience is over, or it diverged."""
    if (Path(run_dir) / DIVERGED).exists():
        return True
    training, checkpoints = read_config(run_dir).training, records(run_dir)
    return bool(checkpoints) and (
        checkpoints[-1].step == training.steps or checkpoints[-1].counters.out_of_patience(training.patience)
    )


def records(run_dir: str | Path) -> list[Record]:
    """All checkpoints that a run has, ascending."""
    options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0, lightweight_initialize=True
    )
    found: list[Record] = []
    with ocp.CheckpointManager(Path(run_dir).resolve() / CHECKPOINTS, options=options) as manager:
        for step in manager.all_steps():
            with suppress(FileNotFoundError):  # deleted meanwhile by the process that trains
                about = dict(manager.metadata(step).custom_metadata or {})
                loss, counted = validation_loss(manager.metrics(step)), about.pop("counters", None)
                if counted is None:  # an earlier version, which saved exactly where it validated
                    counters = found[-1].counters if found else Counters()
                    counters = counters.after_validation(loss) if math.isfinite(loss) else counters
                else:
                    counters = Counters(**counted)
                found.append(Record(step, loss, **about, counters=counters))
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
    return [record.step for record in records(run_dir) if not record.resume_only]


def checkpoint_steps(
    run_dir: str | Path, checkpoint: Literal["best", "last"] | int = "last", average: int | None = None
) -> list[int]:
    """The steps of the checkpoints to average, ascending: the chosen one and the `average - 1` before it.

    Args:
        run_dir: The run directory.
        checkpoint: The one of lowest validation loss, the last one, or the one of a step.
        average: If None, the configured number for the last checkpoint (fewer if fewer exist), and 1 for any other.

    Raises: InputError if the directory is not that of a run, or it has no checkpoint, not this one, or not as many.
    """
    config = read_config(run_dir)
    regular = [record for record in records(run_dir) if not record.resume_only]
    if not regular:
        raise InputError(f"There is no checkpoint in {Path(run_dir) / CHECKPOINTS}.")
    steps = [record.step for record in regular]
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


def _fields(config: Config) -> dict[str, Any]:
    """The config as one flat dict, files by their absolute paths, without what may differ within a run."""
    fields = {}
    for name, value in dataclasses.asdict(config).items():
        fields |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    del fields["run_dir"]
    if config.data.corpus == "files":
        for name in ("data.train", "data.validation", "data.test"):
            fields[name] = tuple(str(locate(file).resolve()) for file in fields[name])
    elif config.data.is_one_file:
        fields["data.corpus"] = str(locate(config.data.corpus).resolve())
    if fields["tokenizer.file"] is not None:
        fields["tokenizer.file"] = str(Path(fields["tokenizer.file"]).resolve())
    return fields

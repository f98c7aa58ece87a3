"""The run directory, which has all that resuming and evaluating a run needs.

RUN/config.json         the resolved config
RUN/changes.jsonl       config fields changed on resuming, and the step at which each was changed
RUN/tokenizer.json      the tokenizer
RUN/data.json           what was read, and what was dropped and why
RUN/validation.jsonl    the validation set
RUN/test.jsonl          the test set
RUN/metrics.jsonl       training losses and validation scores
RUN/checkpoints/STEP/   arrays (see `checkpoint.py`)
RUN/damaged/STEP        a checkpoint that could not be read when the run was resumed
RUN/diverged.txt        the error message, if training diverged
RUN/scores.json         the scores of the test set
RUN/hypotheses.txt      the translations of the test set
RUN/evaluation/STEP     an evaluation of each checkpoint, by `evaluate --watch`
RUN/.lock               held by the process that trains
"""

import json
import logging
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Literal, NamedTuple

import orbax.checkpoint as ocp
from filelock import FileLock, Timeout

from transformer.changes import changes
from transformer.config import Config, TrainingConfig
from transformer.config_files import from_json, to_json
from transformer.counters import Counters
from transformer.errors import InputError, did_you_mean, require
from transformer.files import PART, write_whole

# Orbax logs routine messages through absl, which prints them to stderr. Failures are raised as exceptions as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)

DIVERGED = "diverged.txt"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"
NAMED = ("last", "best")  # checkpoints that can be asked for by name instead of by step
LAYOUT = 2  # of the parameters; version 0.1 wrote no number, and each layer was a module of its own


class Record(NamedTuple):
    """A checkpoint's metadata, which is known without reading its arrays.

    step: Number of updates made.
    validation_loss: In nats per target token; infinity if this step was not validated.
    fingerprint: Fingerprint of the tokenizer; None if the metadata is damaged.
    layout: Layout of the parameters: `LAYOUT`, or 1 for version 0.1.
    resume_only: Whether it was saved outside the regular interval, to lose less work. Such a checkpoint is never
        evaluated or averaged, and the next save deletes it.
    counters: The counters of the training loop.
    """

    step: int
    validation_loss: float
    fingerprint: str | None = None
    layout: int = LAYOUT
    resume_only: bool = False
    counters: Counters = Counters()


def check_run(run_dir: str | Path, config: Config) -> None:
    """Checks that a directory can be used with a config, without changing anything.

    Args:
        run_dir: The directory, which need not exist.
        config: The resolved config. It may differ from the run's config where `changes` allows it.

    Raises: InputError if the directory holds a run with another config, holds files but no `config.json`, cannot be
        written to, or is a file; or if a checkpoint is beyond the last step.
    """
    run_dir = Path(run_dir).resolve()
    nearest = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"The run directory {run_dir} cannot be written to. Give another --run-dir.")
    if (run_dir / "config.json").exists():
        checkpoints = records(run_dir)
        if any(record.layout != LAYOUT for record in checkpoints):
            raise InputError(
                f"Cannot resume the run in {run_dir}: it was written by version 0.1, with another layout of the "
                "parameters. It can only be evaluated and used for translation. To train, give another --run-dir."
            )
        step = checkpoints[-1].step if checkpoints else 0
        try:
            changes(read_config(run_dir), config, step)
        except InputError as error:
            raise InputError(
                f"Cannot resume the run in {run_dir} with another config: {error} Give the same config, or another "
                "--run-dir."
            ) from error
        if step > config.training.steps:
            raise InputError(
                f"Cannot resume the run in {run_dir}: it has a checkpoint of step {step}, beyond the "
                f"{config.training.steps} steps of its config. Raise --training.steps, or remove that checkpoint."
            )
    elif run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"The run directory {run_dir} is a file. Give another --run-dir.")
    elif run_dir.exists() and any(path.suffix != PART for path in run_dir.iterdir()):
        raise InputError(f"{run_dir} is neither empty nor a run directory (no config.json). Give another --run-dir.")


def open_run(run_dir: str | Path, config: Config) -> Path:
    """Opens the run directory of a config, or creates it with its `config.json`.

    Args:
        run_dir: The directory.
        config: The resolved config.

    Returns: The directory, as an absolute path.

    Raises: InputError as `check_run` does, or if the directory cannot be created.
    """
    run_dir = Path(run_dir).resolve()
    check_run(run_dir, config)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot create the run directory {run_dir}: {error.strerror}.") from error
    if not (run_dir / "config.json").exists():
        write_whole(run_dir / "config.json", to_json(config).encode())
    return run_dir


def adopt(run_dir: Path, config: Config) -> None:
    """Gives a run a new config, and records the changes in `changes.jsonl`.

    The caller must hold the run (`hold_run`).

    Raises: InputError as `check_run` does.
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
    """Locks a run directory against training by other processes.

    Raises: InputError if another process holds the lock.
    """
    try:
        with FileLock(run_dir / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"Another process is training in the run directory {run_dir}. Wait for it, or give another --run-dir."
        ) from error


def read_config(run_dir: str | Path) -> Config:
    """The config of a run.

    Raises: InputError if this is not a run directory, or its `config.json` is invalid.
    """
    file = Path(run_dir) / "config.json"
    if not file.is_file():
        raise InputError(f"{run_dir} is not a run directory: it has no config.json.")
    try:
        return from_json(file.read_text(encoding="utf-8-sig"))  # an editor may have added a byte-order mark
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {file}. {error}") from error


def data_fingerprints(run_dir: str | Path) -> dict[str, str]:
    """The fingerprints of the data splits that a run was started with, as recorded."""
    file = Path(run_dir) / "data.json"
    reports = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {split: report["fingerprint"] for split, report in reports.items() if "fingerprint" in report}


def training_data(run_dir: str | Path) -> str | None:
    """The fingerprint of the training pairs of a run; None if it is not recorded."""
    return data_fingerprints(run_dir).get("train")


def is_finished(run_dir: str | Path) -> bool:
    """Whether training has ended by its last step, its patience, or divergence."""
    return (Path(run_dir) / DIVERGED).exists() or is_trained(run_dir, read_config(run_dir).training)


def is_trained(run_dir: str | Path, training: TrainingConfig) -> bool:
    """Whether the last checkpoint is regular, and training ends there."""
    return any(
        record.step >= training.steps or record.counters.out_of_patience(training.patience)
        for record in records(run_dir)[-1:]
        if not record.resume_only
    )


def records(run_dir: str | Path) -> list[Record]:
    """The metadata of all checkpoints of a run, in ascending order of their steps."""
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
            except FileNotFoundError:  # deleted in the meantime by the process that trains
                continue
            except (ValueError, OSError):
                about, loss = {}, math.inf
            if "fingerprint" not in about:  # every version writes it, so the metadata is damaged
                if (directory / str(step)).exists():
                    found.append(Record(step, loss))
                continue
            counted = about.pop("counters", None)
            if counted is None:  # written by an earlier version, which saved at every validation and only then
                counters = found[-1].counters if found else Counters()
                counters = counters.after_validation(loss) if math.isfinite(loss) else counters
            else:
                counters = Counters(**counted)
            found.append(Record(step, loss, **{"layout": 1, **about}, counters=counters))
    return found


def validation_loss(metrics: Mapping[str, float] | None) -> float:
    """The validation loss in a checkpoint's metrics; infinity if it is not finite."""
    value = (metrics or {}).get("validation_loss", math.inf)
    return value if math.isfinite(value) else math.inf


def best(checkpoints: Sequence[Record]) -> int | None:
    """The step of lowest validation loss, the later one of equals; else the last step."""
    return min(checkpoints, key=lambda record: (record.validation_loss, -record.step)).step if checkpoints else None


def saved_steps(run_dir: str | Path) -> list[int]:
    """The steps of the checkpoints that can be evaluated, in ascending order."""
    return [record.step for record in _regular(run_dir)]


def checkpoint_steps(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int = "last",
    average: int | None = None,
    without: Collection[int] = (),
) -> list[int]:
    """The steps of the checkpoints to average, in ascending order.

    These are the chosen checkpoint and the `average - 1` checkpoints before it.

    Args:
        run_dir: The run directory.
        checkpoint: `best` is the one with the lowest validation loss; an integer is a step.
        average: How many; None is the configured number for `last` (fewer if fewer exist), and 1 for any other.
        without: Steps to leave out.

    Raises: InputError if this is not a run directory, `checkpoint` is none of these, or a checkpoint is missing; or if
        the last checkpoint is beyond the configured number of steps, and `checkpoint` is not a step.
    """
    config = read_config(run_dir)
    require(
        checkpoint in NAMED or isinstance(checkpoint, Integral),
        f"The checkpoint must be last, best or a step, but is {checkpoint!r}.{did_you_mean(checkpoint, NAMED)}",
    )
    regular = [record for record in _regular(run_dir) if record.step not in without]
    if not regular:
        raise InputError(f"No checkpoint found in {Path(run_dir) / CHECKPOINTS}.")
    steps = [record.step for record in regular]
    if steps[-1] > config.training.steps and isinstance(checkpoint, str):
        raise InputError(
            f"{run_dir} has a checkpoint of step {steps[-1]}, beyond the {config.training.steps} steps of its config. "
            "Choose a step with --checkpoint to use it anyway, or remove it."
        )
    if average is None:
        average = min(config.average, len(steps)) if checkpoint == "last" else 1
    step = {"best": best(regular), "last": steps[-1]}[checkpoint] if isinstance(checkpoint, str) else checkpoint
    existing = f"{run_dir} only has checkpoints of steps {', '.join(map(str, steps))}."
    if step not in steps:
        raise InputError(f"Cannot find the checkpoint of step {step}: {existing}")
    end = steps.index(step) + 1
    if not 1 <= average <= end:
        raise InputError(f"Cannot average {average} checkpoints up to step {step}: {existing}")
    return steps[end - average : end]


def _regular(run_dir: str | Path) -> list[Record]:
    """The regular checkpoints with intact metadata, which can be evaluated."""
    return [record for record in records(run_dir) if not record.resume_only and record.fingerprint is not None]

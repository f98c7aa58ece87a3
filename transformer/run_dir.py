"""The run directory, which has all that resuming and evaluating a run needs.

RUN/config.json         the resolved config
RUN/changes.jsonl       config fields changed on resuming, and the step at which each was changed
RUN/starts.jsonl        versions, devices and command of each start (see `starts.py`)
RUN/tokenizer.json      the tokenizer
RUN/data.json           what was read, and what was dropped and why
RUN/tokens/             the training pairs as token ids (see `data/token_cache.py`)
RUN/tokens.lock         held by the process that makes them
RUN/validation.jsonl    the validation set
RUN/test.jsonl          the test set
RUN/metrics.jsonl       training losses, norms and validation scores
RUN/nonfinite.jsonl     steps whose loss, gradient or update was not finite
RUN/tensorboard/        the log for TensorBoard
RUN/wandb/              the log for Weights & Biases
RUN/checkpoints/STEP/   arrays (see `checkpoint.py`)
RUN/damaged/STEP        a checkpoint that was damaged when the run was resumed
RUN/diverged.txt        the error message, if training diverged
RUN/scores.json         the scores of the test set
RUN/hypotheses.txt      the translations of the test set
RUN/evaluation/STEP     an evaluation of each checkpoint, by `evaluate --watch`
RUN/ctranslate2/        the converted model, by `translate --engine ctranslate2`
RUN/.lock               held by the process that trains
"""

import errno
import json
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from transformer.changes import changes
from transformer.checkpoint_records import CHECKPOINTS, LAYOUT, Record, best, records
from transformer.config import Config, TrainingConfig
from transformer.config_files import from_json, to_json
from transformer.errors import InputError, did_you_mean, require
from transformer.files import LARGEST_JSON, PART, read_json, read_log, read_regular, write_whole

DIVERGED = "diverged.txt"
DAMAGED = "damaged"
TOKENS = "tokens"
_FIRST = {TOKENS, f"{TOKENS}.lock"}  # may be there before a run has begun
SCORES, HYPOTHESES = "scores.json", "hypotheses.txt"  # of the test set
LOCK = ".lock"
NAMED = ("last", "best")  # checkpoints that can be asked for by name instead of by step


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
    elif run_dir.exists() and any(path.suffix != PART and path.name not in _FIRST for path in run_dir.iterdir()):
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
    write_whole(file, read_log(file) + f"{json.dumps(line, ensure_ascii=False)}\n".encode())
    write_whole(run_dir / "config.json", to_json(config).encode())


@contextmanager
def hold_run(run_dir: Path) -> Iterator[None]:
    """Locks a run directory against training by other processes.

    It waits a moment for the lock, which `is_held` takes for an instant.

    Raises: InputError if another process holds the lock.
    """
    try:
        with FileLock(run_dir / LOCK, timeout=0.2):
            yield
    except Timeout as error:
        raise InputError(
            f"Another process is training in the run directory {run_dir}. Wait for it, or give another --run-dir."
        ) from error


def is_held(run_dir: Path) -> bool | None:
    """Whether a process holds a run, without writing to the directory.

    On a shared file system, a process on another machine may not be seen.

    Returns: None if this cannot be told: there is no permission to read the lock, or the file system has none.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        # Opening a pipe would wait for another process.
        with os.fdopen(os.open(run_dir / LOCK, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError) as error:
        return isinstance(error, BlockingIOError)
    except OSError:
        return None
    return False


@contextmanager
def written(run_dir: Path) -> Iterator[None]:
    """Explains why a run directory cannot be written to.

    Raises: InputError instead of an OSError.
    """
    try:
        yield
    except BrokenPipeError:  # of standard output
        raise
    except OSError as error:
        raise InputError(not_written(run_dir, error.strerror or str(error))) from error


def not_written(run_dir: Path, reason: str) -> str:
    """The message for a run directory that can no longer be written to, with what to do about it."""
    if not run_dir.exists():
        what, advice = f"The run directory {run_dir} no longer exists", "Restore it, or mount its disk again"
    else:
        what = f"Could not write to the run directory {run_dir} ({reason})"
        advice = "Free some space" if os.strerror(errno.ENOSPC) in reason else "Fix the cause"
    return f"{what}. {advice}, and run the same command again; it resumes from the last complete checkpoint, if any."


def read_config(run_dir: str | Path) -> Config:
    """The config of a run.

    Raises: InputError if this is not a run directory, or its `config.json` is invalid.
    """
    file = Path(run_dir) / "config.json"
    if not file.is_file():
        raise InputError(f"{run_dir} is not a run directory: it has no config.json.")
    try:
        return from_json(read_regular(file, LARGEST_JSON).decode("utf-8-sig"))  # an editor may have added a mark
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {file}. {error}") from error


def data_fingerprints(run_dir: str | Path) -> dict[str, str]:
    """The fingerprints of the data splits that a run was started with, as recorded.

    Raises: InputError if `data.json` is damaged.
    """
    file = Path(run_dir) / "data.json"
    try:
        reports = read_json(file) if file.exists() else {}
        return {split: report["fingerprint"] for split, report in reports.items() if "fingerprint" in report}
    except (InputError, AttributeError, TypeError) as error:
        raise InputError(
            f"{file} is damaged ({error}). Restore it, or delete it to use the run without comparing its data."
        ) from error


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

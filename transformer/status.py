"""How far a run is, from its files alone.

Nothing here imports JAX or writes anything, so a run can be asked at any time and from any machine.
"""

import contextlib
import json
import math
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from transformer.checkpoint_records import CHECKPOINTS, Record, records, saved_at
from transformer.config import Config
from transformer.files import read_log, read_regular
from transformer.manifest import has_manifest, missing_files
from transformer.run_dir import DIVERGED, SCORES, is_held, is_trained, read_config
from transformer.starts import Start, read_starts

State = Literal["not started", "training", "scoring", "stopped", "killed", "diverged", "finished", "scored"]


@dataclass(frozen=True)
class Checkpoint:
    """The last checkpoint of a run.

    Attributes:
        step: Number of updates made.
        age: Seconds since it was saved; None if its metadata is damaged.
        complete: Whether its metadata matches the manifest and none of its files is missing. The arrays are not read,
            so damage to them is not noticed. None if it has no manifest, as from earlier versions.
    """

    step: int
    age: float | None
    complete: bool | None


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        run_dir: The run directory.
        state: `not started` (it has neither a checkpoint nor a log), `training`, `scoring` (the test set), `stopped`
            (by a signal, an error or `--stop-after`), `killed` (without the chance to say so), `diverged`, `finished`
            (trained, but the test set is not scored) or `scored`.
        reason: Why it has stopped or diverged, if that is known.
        alive: Whether a process holds the run; None if that cannot be told on this machine.
        step: The last step in the log or in a checkpoint. Later steps become visible at the next line of the log.
        steps: Number of steps to train.
        logged_ago: Seconds since the last line of the log; None without any.
        tokens_per_second: Source and target tokens per second, without padding, in the last line of the log; None
            without any.
        seconds_left: Estimate for the remaining steps, at the mean pace since the last start, which includes validation
            and compilation. None unless the run is training and has logged a step since then.
        last_checkpoint: The last checkpoint, from which the run resumes; None without any.
        best_validation_loss: Lowest validation loss in the log, in nats per target token; None without any.
        best_step: The step of that loss.
        skipped_steps: Steps whose update was skipped, because it was not finite (`training.max_skipped_steps`).
        age: Seconds since the first start; None for runs of version 0.1.
        starts: Number of starts.
        last_start: The last start (see `starts.Start`); None for runs of version 0.1.
    """

    run_dir: str
    state: State
    reason: str | None
    alive: bool | None
    step: int
    steps: int
    logged_ago: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    last_checkpoint: Checkpoint | None
    best_validation_loss: float | None
    best_step: int | None
    skipped_steps: int
    age: float | None
    starts: int
    last_start: Start | None


def read_status(run_dir: str | Path) -> Status:
    """Reads the status of a run, which may be training.

    Raises: InputError if this is not a run directory, its `config.json` is invalid, or a log is not a regular file.
    """
    folder = Path(run_dir)
    config, alive = read_config(folder), is_held(folder)
    saved, log, starts = records(folder), _read_log(folder / "metrics.jsonl"), read_starts(folder)
    last = starts[-1] if starts else None
    step = max(log.step, *(record.step for record in saved), 0)
    running = last is not None and last.ended is None if alive is None else alive
    state = _state(folder, config, step, last, running)
    return Status(
        run_dir=str(run_dir),
        state=state,
        reason=_reason(folder, state, last),
        alive=alive,
        step=step,
        steps=config.training.steps,
        logged_ago=_age(log.time),
        tokens_per_second=log.tokens_per_second,
        seconds_left=_seconds_left(log, last, config.training.steps) if state == "training" else None,
        last_checkpoint=_checkpoint(folder, saved[-1]) if saved else None,
        best_validation_loss=log.best_loss,
        best_step=log.best_step,
        skipped_steps=log.skipped_steps,
        age=_age(_seconds(starts[0].time)) if starts else None,
        starts=len(starts),
        last_start=last,
    )


def _state(folder: Path, config: Config, step: int, last: Start | None, running: bool) -> State:
    trained = is_trained(folder, config.training)
    if running:
        return "scoring" if trained else "training"
    if (folder / DIVERGED).exists():
        return "diverged"
    if trained:
        return "scored" if (folder / SCORES).exists() else "finished"
    if last is None:
        return "stopped" if step else "not started"
    return "killed" if last.ended is None else "stopped"


def _reason(folder: Path, state: State, last: Start | None) -> str | None:
    if state == "diverged":
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return read_regular(folder / DIVERGED).decode().strip()
    return last.reason if state == "stopped" and last is not None else None


def _checkpoint(folder: Path, record: Record) -> Checkpoint:
    saved = folder / CHECKPOINTS / str(record.step)
    complete = record.fingerprint is not None and not missing_files(saved) if has_manifest(saved) else None
    return Checkpoint(record.step, _age(saved_at(saved)), complete)


def _seconds_left(log: "_Log", last: Start | None, steps: int) -> float | None:
    if last is None or log.time is None or log.step <= last.step:
        return None
    pace = (log.time - _seconds(last.time)) / (log.step - last.step)
    return max(0.0, pace * (steps - log.step) - (time.time() - log.time))


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _age(since: float | None) -> float | None:
    return None if since is None else max(0.0, time.time() - since)


class _Log(NamedTuple):
    """What `metrics.jsonl` says.

    `step`, `time` (seconds since 1970), speed and skipped steps are those of its last line of training.
    """

    step: int = 0
    time: float | None = None
    tokens_per_second: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    skipped_steps: int = 0


def _read_log(file: Path) -> _Log:
    """Reads a log that may be growing. Lines that are damaged or incomplete are left out."""
    try:
        modified = file.stat().st_mtime
    except FileNotFoundError:
        return _Log()
    lines = read_log(file).splitlines()
    # Parsing only these lines keeps a long log fast.
    found = ((line, values) for line in reversed(lines) if (values := _values(line, "tokens_per_second")))
    last, latest = next(found, (b"", None))
    validated = [
        values for line in lines if b'"validation_loss"' in line and (values := _values(line, "validation_loss"))
    ]
    best = min(validated, key=lambda values: (values[1], -values[0]), default=(None, None))
    if latest is None:
        return _Log(best_step=best[0], best_loss=best[1])
    _, skipped = _values(last, "skipped_steps") or (0, 0)  # logged only if steps may be skipped
    return _Log(latest[0], modified, latest[1], best[1], best[0], int(skipped))


def _values(line: bytes, name: str) -> tuple[int, float] | None:
    """The step of a line and the value of this name; None if the line has no such number."""
    try:
        values = json.loads(line)
        step, value = int(values["step"]), float(values[name])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return (step, value) if math.isfinite(value) else None

"""The `transformer status` command, which tells how far a run is."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from transformer.cli.options import parse
from transformer.stages import duration
from transformer.starts import Start
from transformer.status import Status, read_status

ALIVE = {True: "a process holds the run", False: "no process holds the run", None: "cannot tell if a process holds it"}
COMPLETE = {
    True: "complete",
    False: "damaged (the run resumes from an earlier one)",
    None: "without checksums",
}


@dataclass(frozen=True)
class StatusOptions:
    """Tell how far a run is: alive or not, step, speed, last checkpoint, time left.

    Reads the files of the run and changes nothing, also while the run trains. Steps since the last line of the log
    (--training.log-every) are not known.

        transformer status runs/quickstart
        transformer status runs/quickstart --json"""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The run directory, such as runs/quickstart."""
    json: bool = False
    """Print a JSON object instead. docs/reliability.md describes its keys."""


def main(arguments: list[str]) -> None:
    """Tells how far a run is."""
    options = parse(StatusOptions, arguments, "status")
    status = read_status(options.run)
    if options.json:
        print(json.dumps(as_values(status), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(status)))


def as_values(status: Status) -> dict[str, Any]:
    """The fields of a status, and of what it contains, as values of JSON."""
    start = None if status.last_start is None else status.last_start._asdict()
    return dataclasses.asdict(status) | {"last_start": start}


def lines(status: Status) -> list[str]:
    """A status as lines of text. What is not known has no line."""
    reason = "" if status.reason is None else f": {status.reason}"
    rows = {
        "state": f"{status.state}{reason} ({ALIVE[status.alive]})",
        "step": f"{status.step:,} of {status.steps:,}{_ago(', last line of the log', status.logged_ago)}",
        "speed": None if status.tokens_per_second is None else f"{status.tokens_per_second:,.0f} tokens/s",
        "time left": None if status.seconds_left is None else f"about {duration(status.seconds_left)}",
        "checkpoint": _checkpoint(status),
        "validation": _best(status),
        "skipped": f"{status.skipped_steps:,} steps that were not finite" if status.skipped_steps else None,
        "started": _started(status),
        "last start": None if status.last_start is None else _start(status.last_start),
        "versions": None if status.last_start is None else _versions(status.last_start),
    }
    return [status.run_dir, *(f"  {name:<10}  {text}" for name, text in rows.items() if text is not None)]


def _ago(what: str, seconds: float | None) -> str:
    return "" if seconds is None else f"{what} {duration(seconds)} ago"


def _checkpoint(status: Status) -> str:
    last = status.last_checkpoint
    if last is None:
        return "none"
    return f"step {last.step:,}{_ago(', saved', last.age)}, {COMPLETE[last.complete]}"


def _best(status: Status) -> str | None:
    if status.best_validation_loss is None:
        return None
    return f"lowest loss {status.best_validation_loss:.3f} at step {status.best_step:,}"


def _started(status: Status) -> str | None:
    if status.age is None:
        return None
    return f"{duration(status.age)} ago{'' if status.starts == 1 else f', {status.starts} starts'}"


def _start(start: Start) -> str:
    devices = ", ".join(f"{number} x {kind}" for kind, number in start.devices.items())
    return f"step {start.step:,} on {devices} ({start.strategy}), {start.dtype}, attention {start.attention}"


def _versions(start: Start) -> str:
    found = [f"{name} {version}" for name, version in start.versions.items()]
    return ", ".join(found if start.commit is None else [*found, f"commit {start.commit[:12]}"])

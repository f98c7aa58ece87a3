"""The progress display of a training run and its log, `metrics.jsonl`."""

import collections
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console

from transformer.files import read_log, write_whole
from transformer.stages import duration
from transformer.training.loggers import Write

SPEEDS = ("tokens_per_second", "share_of_peak")  # values of the log that differ from run to run


class MetricsLog:
    """A log of a run, such as `metrics.jsonl`, with one JSON object per line.

    `step` is the first key of every line. A resumed run appends to the file. Opening the file removes lines damaged by
    a crash, and lines of steps after `resumed_step`, which will be logged again. A step may have two lines, one for
    training and one for validation.
    """

    def __init__(self, path: Path, resumed_step: int, *, validated: bool = True, loggers: Sequence[Write] = ()) -> None:
        """Opens the file.

        Args:
            path: The file; created if missing.
            resumed_step: Step of the checkpoint that the run resumes from; 0 for a new run.
            validated: Whether the checkpoint includes the validation at that step. If not, its line is removed, because
                the validation will be repeated.
            loggers: Functions that get every line as well, beginning with the lines that are kept.
        """
        truncate(path, resumed_step, validated=validated)
        self._loggers = loggers
        if loggers and path.exists():
            for line in read_log(path).splitlines():
                values = json.loads(line)
                self._log(values.pop("step"), values)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, **values: float | int | str | Sequence[int] | None) -> None:
        """Appends one line and flushes it.

        Args:
            step: The step that the values belong to.
            values: The measured values, by name. A value that is not finite becomes `null`, because JSON has neither
                NaN nor infinity.
        """
        line = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._file.write(json.dumps({"step": step, **line}, allow_nan=False, ensure_ascii=False) + "\n")
        self._file.flush()
        self._log(step, line)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        for write in self._loggers:
            write(step, values)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def truncate(path: Path, last_step: int, *, validated: bool = True) -> None:
    """Removes lines of later steps, and damaged ones, from a log. The arguments are those of `MetricsLog`."""
    if not path.exists():
        path.unlink(missing_ok=True)  # a link to a file that opening would create
        return
    kept = []
    for line in read_log(path).splitlines(keepends=True):
        try:
            values = json.loads(line)
            keep = values["step"] <= last_step and line.endswith(b"\n")
            keep &= validated or values["step"] < last_step or "validation_loss" not in values
        except (ValueError, TypeError, KeyError, RecursionError):  # truncated, perhaps to valid JSON such as a number
            continue
        if keep:
            kept.append(line)
    write_whole(path, b"".join(kept))


class Progress:
    """A progress bar on a terminal, otherwise one plain line per update."""

    def __init__(self, steps: int, resumed_step: int, *, shortest_step: float | None = None) -> None:
        """Starts measuring time.

        Args:
            steps: Total number of steps.
            resumed_step: Step of the checkpoint that the run resumes from; 0 for a new run.
            shortest_step: Seconds that a step would take at the peak of the devices; None if it is unknown.
        """
        self._steps, self._shortest_step = steps, shortest_step
        self._window_start, self._tokens, self._window_steps = time.perf_counter(), 0, 0
        # (step, seconds) of the latest updates. The time left follows from the speed between the first and the last of
        # them, including the time spent on validation.
        self._recent = collections.deque([(resumed_step, self._window_start)], maxlen=10)
        console = Console()
        self._bar = None
        if console.is_interactive:
            self._bar = rich.progress.Progress(
                rich.progress.BarColumn(bar_width=20),
                rich.progress.TextColumn("{task.description}"),
                console=console,
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("starting", total=steps, completed=resumed_step)

    def count(self, tokens: int) -> None:
        """Counts a step, and its source and target tokens without padding."""
        self._tokens += tokens
        self._window_steps += 1

    def update(self, step: int, *, loss: float, learning_rate: float) -> dict[str, float]:
        """Shows the step, loss, learning rate, speed and remaining time.

        Args:
            step: Steps made so far.
            loss: Mean training loss since the last call, in nats per target token.
            learning_rate: Learning rate of this step.

        Returns: The speed since the last call, excluding pauses, by name: `tokens_per_second`, and `share_of_peak` if
            the peak is known. The first call measures from the start, which includes compilation.
        """
        now = time.perf_counter()
        seconds = now - self._window_start
        speed = {"tokens_per_second": self._tokens / seconds}
        shown = f"{speed['tokens_per_second']:,.0f} tokens/s"
        if self._shortest_step is not None:
            speed["share_of_peak"] = self._window_steps * self._shortest_step / seconds
            shown += f" ({speed['share_of_peak']:.0%} of the peak)"
        self._window_start, self._tokens, self._window_steps = now, 0, 0
        self._recent.append((step, now))
        (first_step, first_time), steps_left = self._recent[0], self._steps - step
        seconds_left = steps_left * (now - first_time) / (step - first_step)
        line = (
            f"step {step:,}/{self._steps:,}  loss {loss:.3f}  lr {learning_rate:.1e}  "
            f"{shown}  {duration(seconds_left)} left"
        )
        if self._bar is None:
            self.print(line)
        else:
            self._bar.update(self._task, completed=step, description=line)
        return speed

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time spent in this context from the measured speed."""
        start = time.perf_counter()
        yield
        self._window_start += time.perf_counter() - start

    def print(self, text: str) -> None:
        """Prints a line of its own, above the bar where there is one."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

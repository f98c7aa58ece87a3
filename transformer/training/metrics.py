"""What a person sees of a training run while it runs, and what stays of it in `metrics.jsonl`."""

import collections
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rich.progress
from rich.console import Console

from transformer.files import write_whole


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, with its `step` first; appended to when a run is resumed.

    Lines of steps after `resumed_step`, and lines that a crash has damaged, are cut when the file is opened, so that
    nothing is told twice. A step may still have two lines, one of training and one of validation.
    """

    def __init__(self, path: Path, resumed_step: int, *, validated: bool = True) -> None:
        """Opens the file.

        Args:
            path: The file; created if it is not there.
            resumed_step: Updates made before this start: 0, or the step of the checkpoint that the run goes on from.
            validated: Whether the validation at that step is part of the checkpoint. If not, it will be made again.
        """
        if path.exists():
            _cut(path, resumed_step, validated)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, **values: float | int | str | None) -> None:
        """Appends one line and flushes it.

        Args:
            step: The optimizer update that the values belong to.
            values: What was measured; a value that is not finite becomes `null`, as JSON has no word for it.
        """
        line = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._file.write(json.dumps({"step": step, **line}, allow_nan=False, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _cut(path: Path, last_step: int, validated: bool) -> None:
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            values = json.loads(line)
            keep = values["step"] <= last_step and line.endswith(b"\n")
            keep &= validated or values["step"] < last_step or "validation_loss" not in values
        except (ValueError, TypeError, KeyError):  # torn by a crash, which may leave valid JSON such as a number
            continue
        if keep:
            kept.append(line)
    write_whole(path, b"".join(kept))


class Progress:
    """The progress of a run: a bar where stdout is a terminal, otherwise one plain line at each update."""

    def __init__(self, steps: int, resumed_step: int) -> None:
        """Starts the clocks.

        Args:
            steps: Updates in all.
            resumed_step: Updates made before this start.
        """
        self._steps = steps
        self._window_start, self._tokens = time.perf_counter(), 0
        # (step, seconds) of the latest updates: the time left follows from the speed between the first and the last,
        # validation and all.
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
        """Counts the tokens of a step, source and target, without padding."""
        self._tokens += tokens

    def update(self, step: int, *, loss: float, learning_rate: float) -> float:
        """Shows how far the run is.

        Args:
            step: Updates made so far.
            loss: Training loss since the last call, in nats per target token.
            learning_rate: The rate of this update.

        Returns: Tokens per second since the last call, without pauses (at the first call: since the start, compilation
            included).
        """
        now = time.perf_counter()
        tokens_per_second = self._tokens / (now - self._window_start)
        self._window_start, self._tokens = now, 0
        self._recent.append((step, now))
        (first_step, first_time), steps_left = self._recent[0], self._steps - step
        seconds_left = steps_left * (now - first_time) / (step - first_step)
        line = (
            f"step {step:,}/{self._steps:,}  loss {loss:.3f}  lr {learning_rate:.1e}  "
            f"{tokens_per_second:,.0f} tokens/s  {_duration(seconds_left)} left"
        )
        if self._bar is None:
            self.print(line)
        else:
            self._bar.update(self._task, completed=step, description=line)
        return tokens_per_second

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the time spent in this context, on something other than training, out of the speed."""
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


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

"""A trace of some training steps, for JAX's profiler."""

from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path

import jax

from transformer.checkpoint_records import records
from transformer.config import Config
from transformer.errors import require
from transformer.shapes import Batch

FIRST = 2  # steps of a process before the trace: they compile, and fill the caches of the device

Step = tuple[int, Batch]  # its number, from 1, and its batch


def require_steps(number: int | None, config: Config) -> None:
    """Raises InputError if the number of steps to trace is not positive, or if the run has too few steps left.

    Args:
        number: Number of steps to trace; None traces nothing.
        config: The experiment, whose run directory may hold checkpoints.
    """
    if number is None:
        return
    require(number >= 1, f"--profile must be at least 1, but is {number}. Give the number of steps to trace.")
    saved = records(config.run_dir) if (Path(config.run_dir) / "config.json").exists() else []
    left = config.training.steps - (saved[-1].step if saved else 0)
    require(
        number + FIRST <= left,
        f"--profile {number} needs {number + FIRST} steps, because the first {FIRST} are not traced, but the run has "
        f"{max(left, 0)} left. Give a smaller number, or raise --training.steps.",
    )


def traced(
    steps: Iterator[Step], number: int | None, folder: Path, wait: Callable[[], object], say: Callable[[str], None]
) -> Generator[Step, None, None]:
    """Yields training steps, and writes a trace of some of them.

    The trace has everything that happens until the step after them is requested, so validations and checkpoints, too.

    Args:
        steps: The steps, from any number on.
        number: Number of steps to trace, after the first `FIRST` of them; None traces nothing.
        folder: Directory of the traces; each has a folder of its own in it.
        wait: Function that returns when the device has computed all steps so far.
        say: Function that prints a line.
    """
    if number is not None:
        yield from islice(steps, FIRST)
        wait()
        with jax.profiler.trace(folder):
            for step, batch in islice(steps, number):
                with jax.profiler.StepTraceAnnotation("step", step_num=step):
                    yield step, batch
            wait()
        say(
            f"Traced {number} steps in {folder}. Open the file *.trace.json.gz there at https://ui.perfetto.dev, or "
            f"run: pip install xprof && xprof --logdir {folder}"
        )
    yield from steps

"""The processes of a job, which run the same program, and what they must agree on.

A job has one process unless it was launched as several, which have then joined (`joining.py`). The first process writes
the run directory, and decides what depends on a clock or a disk. With one process, every function here is a plain call.

All processes must call these functions in the same order.
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from transformer import interruption
from transformer.errors import InputError
from transformer.interruption import Interrupted
from transformer.joining import joined

T = TypeVar("T")

_LONGEST = 7 * 24 * 3600  # seconds; processes wait while one tokenizes, and notice a dead one by its heartbeat
_VISIBLE = 60  # seconds
_SMALLEST = 256  # bytes of a message
_barriers, _checks = count(), count()


def number() -> int:
    """Returns the number of processes."""
    return jax.process_count() if joined() else 1


def is_first() -> bool:
    """Returns whether this is the first process, which writes."""
    return not joined() or jax.process_index() == 0


@contextmanager
def first_prints() -> Iterator[None]:
    """Prints to standard output in the first process only."""
    if is_first():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def wait() -> None:
    """Waits until all processes have come here, however long one of them takes."""
    if number() > 1:
        multihost.get_barrier_sync_fn()(key=f"transformer/{next(_barriers)}", timeout_ms=1000 * _LONGEST)


def gathered(value: Any) -> list[Any]:
    """Returns the value of each process, in their order.

    Args:
        value: What JSON can hold.
    """
    if number() == 1:
        return [value]
    wait()  # a collective has a time limit
    return [json.loads(row.tobytes().rstrip(b"\0")) for row in multihost_utils.process_allgather(_message(value))]


def of_first(value: T) -> T:
    """Returns the first process's value.

    Args:
        value: What JSON can hold. In all other processes it is ignored.
    """
    if number() == 1:
        return value
    wait()
    received = multihost_utils.broadcast_one_to_all(_message(value if is_first() else None))
    return json.loads(np.asarray(received).tobytes().rstrip(b"\0"))


def _message(value: Any) -> np.ndarray:
    """Returns a value as bytes, as many in every process. Their number is a power of two: few programs to compile."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.int32(text.size)).max())
    message = np.zeros(max(_SMALLEST, 1 << (longest - 1).bit_length()), np.uint8)
    message[: text.size] = text
    return message


def agree(function: Callable[[], T]) -> T:
    """Calls a function in every process.

    Raises:
        InputError: The function has raised it in this process or in another one.
    """
    try:
        result, error = function(), None
    except InputError as raised:
        result, error = None, raised
    said = next((text for text in gathered(error and str(error)) if text), None)
    if error is not None:
        raise error
    if said is not None:
        raise InputError(said)
    return result  # pyright: ignore[reportReturnType] - it is only None if there is an error


def by_first(function: Callable[[], T]) -> T | None:
    """Calls a function in the first process, while all others wait.

    Returns:
        What it returned; None in all other processes.

    Raises:
        InputError: The function has raised it.
    """
    return agree(lambda: function() if is_first() else None)


def decided_by_first(function: Callable[[], T]) -> T:
    """Returns what a function returns in the first process, for decisions that depend on a disk.

    Args:
        function: Returns what JSON can hold.

    Raises:
        InputError: The function has raised it.
    """
    return of_first(by_first(function))  # pyright: ignore[reportReturnType] - the first process's value is not None


@contextmanager
def in_first(context: AbstractContextManager[T]) -> Iterator[T | None]:
    """Opens a context in the first process only.

    Yields:
        What the context yields; None in all other processes.

    Raises:
        InputError: Opening it has raised it.
    """
    with ExitStack() as stack:
        yield by_first(lambda: stack.enter_context(context))


def require_same(what: str, value: Any) -> None:
    """Raises InputError unless the value is the same in all processes, which have as many devices each.

    Args:
        what: Names the value in the message, with a verb, such as "The test pairs are".
        value: What JSON can hold.
    """
    if number() == 1:
        return
    counts = Counter(device.process_index for device in jax.devices())
    if len({*counts.values()}) > 1:
        raise InputError(
            f"All processes must have as many devices, but they have {min(counts.values())} to {max(counts.values())}. "
            "Start all processes with the same devices."
        )
    values = gathered(value)
    other = next((index for index, own in enumerate(values) if own != values[0]), None)
    if other is not None:
        raise InputError(
            f"{what} not the same in process {other} as in process 0. Start all processes with the same command, on "
            "the same files."
        )


def require_shared(file: Path) -> None:
    """Raises InputError unless all processes find a file that the first one has written."""

    def found() -> None:
        until = time.monotonic() + _VISIBLE
        while not file.exists():  # network file systems show a new file after a while
            if time.monotonic() > until:
                raise InputError(
                    f"Process {jax.process_index()} does not find {file}. The run directory must be one that all "
                    "processes share."
                )
            time.sleep(0.5)

    agree(found)


def own(items: np.ndarray) -> np.ndarray:
    """Returns this process's share of the items: every second one if there are two processes, and so on."""
    return items[jax.process_index() :: number()]


def united(results: dict[int, T]) -> dict[int, T]:
    """Unites what each process has computed.

    Args:
        results: What this process has computed, by number of the item. JSON can hold it, and lists replace tuples.

    Returns:
        What all processes have computed.
    """
    if number() == 1:
        return results
    return {int(item): result for part in gathered(results) for item, result in part.items()}


def on_host(tree: Any) -> Any:
    """Returns arrays as every process needs them to compute on its own devices, whatever they are sharded over."""
    return tree if number() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def check() -> None:
    """Raises Interrupted in all processes at the same call, if one of them was asked to stop.

    The processes call this between steps, equally often.
    """
    if number() == 1:
        interruption.check()
    elif multihost_utils.reached_preemption_sync_point(next(_checks)):
        raise Interrupted(interruption.received() or signal.SIGTERM)


def checked(items: Iterable[T]) -> Iterator[T]:
    """Yields the items, with a `check` before each."""
    return interruption.checked(items, check)

"""Windows of a stream, so that what has arrived need not wait for more."""

from collections.abc import Collection, Generator, Iterable
from contextlib import suppress
from itertools import islice
from queue import Empty, Full, Queue
from threading import Event, Thread
from time import monotonic
from typing import Any, NamedTuple, TypeVar

PAUSE = 0.05  # seconds that a window waits for further items: enough to fill it from a file, and hardly noticeable

T = TypeVar("T")


class _End(NamedTuple):
    """Marks the end of a stream, with the exception that ended it, if any."""

    error: BaseException | None


def windows(items: Iterable[T], size: int) -> Generator[list[T], None, None]:
    """Splits items into lists, without waiting for a list to become full.

    A collection is split into full windows. Any other iterable is advanced by a separate thread, because it may wait
    for an answer before it yields the next item. A window then ends when it is full, or when no item has arrived for a
    moment.

    Args:
        items: The items, in order.
        size: Maximum number of items in a window. At most this many further items are read ahead.

    Yields:
        The items in their order, in non-empty lists.

    Raises:
        BaseException: Whatever the iterable raises, after the items before it have been yielded.
    """
    if isinstance(items, Collection):
        remaining = iter(items)
        while window := list(islice(remaining, size)):
            yield window
        return
    arrived, stopped = Queue[Any](size), Event()
    Thread(target=_read, args=(items, arrived, stopped), name="windows", daemon=True).start()
    try:
        end = None
        while end is None:
            window, end = _next_window(arrived, size)
            if window:
                yield window
        if end.error is not None:
            raise end.error
    finally:
        stopped.set()  # and takes no lock of the queue: garbage may be collected in the thread that has it


def _read(items: Iterable[Any], arrived: Queue[Any], stopped: Event) -> None:
    error = None
    try:
        for item in items:
            if not _put(arrived, item, stopped):
                return
    except BaseException as raised:  # raised again in the thread that consumes the windows
        error = raised
    _put(arrived, _End(error), stopped)


def _put(arrived: Queue[Any], item: Any, stopped: Event) -> bool:
    """Adds an item as soon as there is room; returns False if nobody consumes the windows any more."""
    while not stopped.is_set():
        with suppress(Full):
            arrived.put(item, timeout=1)
            return True
    return False


def _next_window(arrived: Queue[Any], size: int) -> tuple[list[Any], _End | None]:
    """Waits for an item and takes what follows, up to `size`, with the end if reached."""
    window, item, deadline = [], arrived.get(), monotonic() + PAUSE
    while not isinstance(item, _End):
        window.append(item)
        if len(window) == size:
            return window, None
        try:
            item = arrived.get(timeout=max(0.0, deadline - monotonic()))
        except Empty:
            return window, None
    return window, item

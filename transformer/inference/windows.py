"""A stream in windows: what has arrived is worked on together, and whoever waits for an answer gets one."""

from collections.abc import Collection, Generator, Iterable
from contextlib import suppress
from itertools import islice
from queue import Empty, Queue
from threading import Event, Thread
from time import monotonic
from typing import Any, NamedTuple, TypeVar

PAUSE = 0.05  # seconds that a window waits for more: a file fills it meanwhile, and a person does not notice

T = TypeVar("T")


class _End(NamedTuple):
    """What comes after the last item."""

    error: BaseException | None


def windows(items: Iterable[T], size: int) -> Generator[list[T], None, None]:
    """All items in order, in lists of at most `size`.

    A collection gives full windows. Any other iterable is advanced by a thread, since it may wait for an answer before
    it gives the next item: a window is full, or has what arrived within a moment. At most `size` items wait, besides
    the window itself. If the iterable raises an exception, it is raised here, after the items before it.
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
        stopped.set()
        with suppress(Empty):  # makes room for the item that the thread may be about to add before it stops
            while True:
                arrived.get_nowait()


def _read(items: Iterable[Any], arrived: Queue[Any], stopped: Event) -> None:
    error = None
    try:
        for item in items:
            arrived.put(item)
            if stopped.is_set():
                return
    except BaseException as raised:  # raised again by the thread that asks for windows
        error = raised
    arrived.put(_End(error))


def _next_window(arrived: Queue[Any], size: int) -> tuple[list[Any], _End | None]:
    """What has arrived, at least one item, and the end if that has."""
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

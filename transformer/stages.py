"""Announcements of stages that take long, with their progress where it is known, and durations as text."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

LONG = 2.0
"""Seconds after which a stage is announced."""
REPEAT = 10.0
"""Seconds between two reports of a stage's progress."""


class _Stage:
    """What a stage does and how much of it is done."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._progress = ""

    def advance(self, done: int, total: int | None, unit: str) -> None:
        self._progress = f": {done:,} {unit}" if total is None else f": {done:,} of {total:,} {unit}"

    def __str__(self) -> str:
        return f"{self._doing}{self._progress} ..."


_current: ContextVar[_Stage | None] = ContextVar("stage", default=None)


@contextmanager
def stage(doing: str, say: Callable[[str], None] = print) -> Iterator[None]:
    """Announces a stage after `LONG` seconds, and its progress every `REPEAT` seconds.

    The progress is known while the stage iterates over `counted`.

    Args:
        doing: A phrase such as "reading the test pairs".
        say: Prints an announcement. It is called from another thread.
    """
    current, ended = _Stage(doing), threading.Event()
    token = _current.set(current)
    threading.Thread(target=_announce, args=(current, ended, say), name="stage", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        _current.reset(token)


def _announce(current: _Stage, ended: threading.Event, say: Callable[[str], None]) -> None:
    said, pause = None, LONG
    while not ended.wait(pause):
        if (now := str(current)) != said:
            say(now)
        said, pause = now, REPEAT


def counted(items: Iterable[T], total: int | None, unit: str, *, size: int = 1) -> Iterator[T]:
    """Yields the items, and reports their number to the current stage if any.

    Args:
        items: What the stage works through, one after the other.
        total: Number of units in all items, or None if it is unknown.
        unit: Name of the unit in the plural, such as "lines".
        size: Number of units in each item. The last item may have fewer.
    """
    # Read here, not in the generator: a library may run the generator in a thread of its own.
    current = _current.get()
    return iter(items) if current is None else _counted(current, items, total, unit, size)


def _counted(current: _Stage, items: Iterable[T], total: int | None, unit: str, size: int) -> Iterator[T]:
    every = max(1, 1000 // size)  # a report costs more than an item may
    done = 0
    for number, item in enumerate(items):
        if number % every == 0:
            current.advance(done, total, unit)
        done += size
        yield item
    current.advance(done if total is None else total, total, unit)


def duration(seconds: float) -> str:
    """A number of seconds as hours, minutes and seconds, such as `2:05` or `1:00:00`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

"""Signals that ask a process to end: noted when they come, obeyed where nothing is lost.

`transformer train` runs inside `deferred`. From then on SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGHUP do not end the
process; the work itself ends at the next `check`, which is made before each training step, batch of a validation, batch
of translations, and chunk of text to tokenize. What cannot be left in between is one compilation, so that is the bound.
A second signal ends the process at once, even during a compilation. The exit status is 128 + the signal's number.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""The signals that `deferred` defers; Windows has not all of them."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Attributes:
        signal: The first signal that came.
        advice: How to go on, in a sentence, where that is known.
    """

    def __init__(self, received: signal.Signals, advice: str = "") -> None:
        super().__init__(f"Interrupted by {received.name}. {advice}".rstrip())
        self.signal = received


_received: signal.Signals | None = None


def check() -> None:
    """Raises: Interrupted if a deferred signal has come."""
    if _received is not None:
        raise Interrupted(_received)


def checked(items: Iterable[T]) -> Iterator[T]:
    """The items, with a `check` before each of them."""
    for item in items:
        check()
        yield item


@contextmanager
def deferred(say: Callable[[str], None]) -> Iterator[None]:
    """Defers the signals of this process while the context is open. One that is ignored, as under nohup, stays so.

    Python's own handlers wait until the main thread comes out of native code, such as XLA's compiler. So a thread reads
    the signals from a socket that the interpreter writes to at once. Outside the main thread, which alone may set
    handlers, the context changes nothing.

    Args:
        say: Prints what will happen; called from another thread.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received = None
    before = {number: signal.getsignal(number) for number in SIGNALS}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # a handler at all is what makes the interpreter write
    watcher = threading.Thread(target=_watch, args=(reader, say), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(descriptor)
        writer.close()  # which ends the watcher
        watcher.join()
        reader.close()
        _received = None


def _watch(reader: socket.socket, say: Callable[[str], None]) -> None:
    global _received
    while numbers := reader.recv(1):
        if numbers[0] not in SIGNALS:
            continue
        if _received is not None:
            os._exit(128 + numbers[0])
        _received = signal.Signals(numbers[0])
        say(
            f"{_received.name}: stopping after the current step, or the compilation that is running. A second signal "
            "stops at once."
        )

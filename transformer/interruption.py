"""Signals that ask the process to stop, deferred until stopping loses nothing.

`transformer train` runs inside `deferred`. There, SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGHUP do not end the process.
Instead, the work stops at the next `check`: before each training step, batch of validation or translation, and chunk of
text to tokenize. One compilation cannot be stopped, so the delay is bounded by a compilation. A second signal ends the
process at once, even during a compilation. The exit status is 128 + the number of the signal.
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
"""The signals that `deferred` defers, without those that Windows lacks."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop.

    Attributes:
        signal: The first signal that arrived.
    """

    def __init__(self, received: signal.Signals, advice: str = "") -> None:
        """Sets the message.

        Args:
            received: The signal.
            advice: A sentence that tells the user how to continue; empty if that is not known.
        """
        super().__init__(f"Interrupted by {received.name}. {advice}".rstrip())
        self.signal = received


_received: signal.Signals | None = None
_agreed = False  # whether several processes must stop at the same step


def check() -> None:
    """Raises Interrupted if a deferred signal has arrived, and this process may stop alone."""
    if _received is not None and not _agreed:
        raise Interrupted(_received)


def received() -> signal.Signals | None:
    """Returns the first deferred signal that has arrived in this process; None without any."""
    return _received


def checked(items: Iterable[T], look: Callable[[], None] | None = None) -> Iterator[T]:
    """Yields the items, with a `check` before each, or with what `look` does instead."""
    for item in items:
        (look or check)()
        yield item


@contextmanager
def deferred(say: Callable[[str], None], *, agreed: bool = False) -> Iterator[None]:
    """Defers the signals of this process while the context is open.

    A signal that was ignored before, as SIGHUP under nohup, stays ignored.

    If several processes must agree on where they stop, JAX's own handler of SIGTERM tells the others, and any other
    signal is passed on as SIGTERM. `check` then does nothing; `processes.check` raises in all of them.

    Python runs its own handlers only after the main thread returns from native code, such as XLA's compiler. So a
    thread reads the signals from a socket, to which the interpreter writes at once. Handlers can only be set in the
    main thread; in any other thread this context does nothing.

    Args:
        say: Prints what will happen; called from another thread.
        agreed: Whether several processes must stop at the same step.
    """
    global _received, _agreed
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received, _agreed = None, agreed
    before = {number: signal.getsignal(number) for number in SIGNALS if not (agreed and number == signal.SIGTERM)}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # the interpreter only writes to the socket if there is a handler
    watcher = threading.Thread(target=_watch, args=(reader, say), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(descriptor)
        writer.close()  # ends the watcher
        watcher.join()
        reader.close()
        _received, _agreed = None, False


@contextmanager
def immediate() -> Iterator[None]:
    """Raises Interrupted as soon as a signal arrives, for work that has nothing to save.

    A signal that was ignored before stays ignored. In any other thread than the main thread this context does nothing.
    """

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(signal.Signals(number))

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if is_main}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _watch(reader: socket.socket, say: Callable[[str], None]) -> None:
    global _received
    while numbers := reader.recv(1):
        if numbers[0] not in SIGNALS:
            continue
        if _received is not None:
            os._exit(128 + numbers[0])
        _received = signal.Signals(numbers[0])
        if _agreed:
            os.kill(os.getpid(), signal.SIGTERM)
        say(
            f"{_received.name}: stopping after the current step, or after the compilation in progress. A second signal "
            "stops at once."
        )

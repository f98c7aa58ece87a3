"""What no case may do, and where a case ends before anything is compiled."""

import faulthandler
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

SECONDS, BYTES = 10.0, 2**30
# From here on, programs are compiled or pictures are drawn. What is done with input has been done before.
ENDS = (
    "transformer.analysis.complexity.measure.measure",
    "transformer.analysis.figures.to_bytes",
    "transformer.cli.resuming.trained",
    "transformer.inference.decoding._search",
    "transformer.inference.export.search_program",
    "transformer.inference.forced_decoding.apply",
    "transformer.inference.forced_decoding.strongest_sources",
    "transformer.inference.forced_decoding.token_log_probabilities",
    "transformer.planning.plan.compile_step",
    "transformer.training.loop.train",
)


class Misbehaved(BaseException):
    """A case took too long or too much memory, or asked the network."""


class Reached(BaseException):
    """A case has reached one of `ENDS`, so its input was accepted."""


@contextmanager
def limited() -> Iterator[None]:
    """Ends what takes more than ten seconds, and refuses what took more than a gigabyte."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = memory("VmRSS"), time.monotonic()

    def late(*_: object) -> NoReturn:
        raise Misbehaved(f"more than {SECONDS:g} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True)  # in native code, which no signal ends
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    if (seconds := time.monotonic() - start) > SECONDS:
        raise Misbehaved(f"{seconds:.0f} s")
    if (grown := memory("VmHWM") - before) > BYTES:
        raise Misbehaved(f"{grown / 2**20:,.0f} MB")


def memory(name: str) -> int:
    """A number of bytes in /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@contextmanager
def without_network() -> Iterator[None]:
    """Refuses every connection and every look-up of a name."""

    def refuse(*arguments: object, **_: object) -> NoReturn:
        raise Misbehaved(f"asked the network: {arguments}")

    with patch.object(socket.socket, "connect", refuse), patch.object(socket, "getaddrinfo", refuse):
        yield


@contextmanager
def without_compiling() -> Iterator[None]:
    """Ends a case where the first program would be compiled."""

    def reached(*_: object, **__: object) -> NoReturn:
        raise Reached

    with ExitStack() as stack:
        for name in ENDS:
            stack.enter_context(patch(name, reached))
        yield

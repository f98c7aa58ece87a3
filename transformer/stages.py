"""What takes long says what it does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONG = 2.0  # seconds after which a stage is announced


@contextmanager
def stage(doing: str, say: Callable[[str], None] = print) -> Iterator[None]:
    """Says what is being done, once it has taken `LONG` seconds.

    Args:
        doing: Such as "reading the test pairs".
        say: Prints it; called from another thread.
    """
    timer = threading.Timer(LONG, say, [f"{doing} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

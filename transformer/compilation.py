"""Counts and announcements of the programs that JAX compiles."""

import sys
import threading
from collections.abc import Callable
from functools import cache

from transformer.runtime import CACHED_FROM
from transformer.stages import LONG

# JAX records _COMPILATION as a scalar when a compilation starts, and as a duration when it ends. If the program comes
# from the cache, it records _CACHE_HIT in between.
_COMPILATION = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
# What users call the functions that may take long to compile. jax.pmap calls every function `_fun`.
_PROGRAMS = {
    "_fun": "a training or validation step",
    "_search": "a search",
    "token_log_probabilities": "the scoring of translations",
    "strongest_sources": "the alignment of translations",
    "apply": "the model",
}


class Compilations:
    """Context that counts the programs that JAX compiles or loads from its cache.

    A compilation is announced once it has taken `LONG` seconds, and again when it ends. All times are the seconds that
    XLA takes, including reading or writing the cache, but not tracing and lowering.

    Attributes:
        compiled: Seconds of each program that took at least `CACHED_FROM` to compile.
        small: Seconds of each program that compiled faster. The cache does not keep these.
        cached: Seconds of each program that was loaded from the cache.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """Starts with empty counts.

        Args:
            say: Function that prints an announcement. It may be called from other threads.
        """
        self.compiled: list[float] = []
        self.small: list[float] = []
        self.cached: list[float] = []
        self._say = say
        self._running = threading.local()  # a thread compiles one program at a time, and is notified of its own only

    def __enter__(self) -> "Compilations":
        from jax import monitoring  # not at the top, because the command line sets the allocator before it imports JAX

        monitoring.register_scalar_listener(self._start)
        monitoring.register_event_listener(self._hit)
        monitoring.register_event_duration_secs_listener(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        from jax import monitoring

        monitoring.unregister_scalar_listener(self._start)
        monitoring.unregister_event_listener(self._hit)
        monitoring.unregister_event_duration_listener(self._end)

    def __str__(self) -> str:
        """Returns one line with the numbers of programs and their total times."""
        compiled, small, cached = (f"{sum(seconds):.1f} s" for seconds in (self.compiled, self.small, self.cached))
        number = len(self.compiled)
        return (
            f"Compiled {number} program{'' if number == 1 else 's'} in {compiled}, and {len(self.small)} of less than "
            f"{CACHED_FROM:g} s in {small}. Loaded {len(self.cached)} from the compilation cache in {cached}."
        )

    def _start(self, event: str, value: float | int, **about: str | int) -> None:
        if event != _COMPILATION:
            return
        self._running.cached = False
        self._running.timer = threading.Timer(LONG, self._announce, [_name(about)])
        self._running.timer.daemon = True
        self._running.timer.start()

    def _announce(self, name: str) -> None:
        import jax

        kept = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
        self._say(f"Compiling {name}: {LONG:g} s so far{' (the next run loads it from the cache)' if kept else ''} ...")

    def _hit(self, event: str, **_: str | int) -> None:
        if event == _CACHE_HIT:
            self._running.cached = True

    def _end(self, event: str, duration_secs: float, **about: str | int) -> None:
        if event != _COMPILATION or not hasattr(self._running, "timer"):  # started before this context was open
            return
        self._running.timer.cancel()
        cached = self._running.cached
        kind = self.cached if cached else self.compiled if duration_secs >= CACHED_FROM else self.small
        kind.append(duration_secs)
        if duration_secs >= LONG:
            self._say(f"{'Loaded' if cached else 'Compiled'} {_name(about)} in {duration_secs:.1f} s.")


@cache
def announce_compilations() -> None:
    """Announces long compilations on standard error for the rest of the process."""
    Compilations(lambda text: print(text, file=sys.stderr, flush=True)).__enter__()


def _name(about: dict[str, str | int]) -> str:
    """Returns what to call the program of a function, which JAX reports as `jit(f)`."""
    name = str(about["fun_name"]).removeprefix("jit(").removesuffix(")")
    return _PROGRAMS.get(name, name.strip("_"))

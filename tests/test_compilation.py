"""JAX's compilations, announced and counted."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import pytest

from transformer import compilation
from transformer.compilation import Compilations, announce_compilations
from transformer.inference.decoding import _search
from transformer.inference.forced_decoding import apply, strongest_sources, token_log_probabilities

UNIQUE = iter(range(10**6))  # part of each program, so that no cache has it from an earlier test


def program(operations: int) -> Callable[[jax.Array], jax.Array]:
    """A jitted function that was never compiled before in this process; more operations take longer to compile."""
    number = os.getpid() + next(UNIQUE) / 1000

    def wave(x):
        for i in range(operations):
            x = jnp.sin(x @ x.T + i) + number
        return x

    return jax.jit(wave)


@pytest.fixture
def cached_from_the_start(monkeypatch) -> Iterator[None]:
    """The cache keeps every program, so every program counts."""
    before = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    monkeypatch.setattr(compilation, "CACHED_FROM", 0.0)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def test_programs_are_counted_by_where_they_come_from(cached_from_the_start):
    first, second, x = program(1), program(2), jnp.ones((4, 4))
    first(x)
    with Compilations(pytest.fail) as counted:
        first(x)
        assert (counted.compiled, counted.cached, counted.small) == ([], [], [])
        start = time.perf_counter()
        second(x)
        elapsed = time.perf_counter() - start
        assert len(counted.compiled) == 1
        assert 0 < counted.compiled[0] < elapsed
        jax.clear_caches()  # those in memory, as a restart does
        first(x)
        second(x)
        assert (len(counted.compiled), len(counted.cached)) == (1, 2)
    program(1)(x)  # after the end
    assert (len(counted.compiled), len(counted.cached)) == (1, 2)
    assert re.fullmatch(
        r"Compiled 1 program in \d\.\d s, and 0 of less than 0 s in 0\.0 s\. "
        r"Loaded 2 from the compilation cache in \d\.\d s\.",
        str(counted),
    )


def test_small_programs_are_counted_apart(monkeypatch):
    x = jnp.ones((4, 4))
    with Compilations(pytest.fail) as counted:
        program(1)(x)
        monkeypatch.setattr(compilation, "CACHED_FROM", 1e9)
        program(1)(x)
        program(1)(x)
        monkeypatch.undo()
    assert len(counted.small) >= 2
    assert f" and {len(counted.small)} of less than 0.1 s in {sum(counted.small):.1f} s. Loaded 0 " in str(counted)


def test_a_long_compilation_is_announced_while_it_takes_its_time(monkeypatch):
    x = jnp.ones((4, 4))
    monkeypatch.setattr(compilation, "LONG", 0.02)
    said: list[tuple[str, threading.Thread, bool]] = []
    with Compilations(lambda text: said.append((text, threading.current_thread(), bool(counted.compiled)))) as counted:
        program(60)(x)
    (start, other, ended), (end, own, _) = said
    assert re.fullmatch(r"Compiling wave: 0\.02 s so far \(the next run loads it from the cache\) \.\.\.", start)
    assert other is not own
    assert not ended
    assert own is threading.current_thread()
    assert end == f"Compiled wave in {counted.compiled[0]:.1f} s."


def test_nothing_is_announced_of_a_compilation_that_has_ended(monkeypatch):
    monkeypatch.setattr(compilation, "LONG", 1.0)
    x = jnp.ones((4, 4))
    fails = jax.jit(lambda x: jax.ffi.ffi_call("no_such_target", jax.ShapeDtypeStruct(x.shape, x.dtype))(x))
    with Compilations(pytest.fail) as counted:
        program(1)(x)
        ended = len(counted.compiled) + len(counted.small)
        with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_target"):
            fails(x)
        assert len(counted.compiled) + len(counted.small) == ended + 1
        time.sleep(1.2)


def test_the_commands_announce_on_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(compilation, "LONG", 0.02)
    x = jnp.ones((4, 4))
    announce_compilations()
    announce_compilations()  # the next command in the same process says nothing twice
    program(60)(x)
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"Compiling wave: 0\.02 s so far .*\nCompiled wave in \d\.\d s\.\n", said.err)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (token_log_probabilities, "the scoring of translations"),
        (strongest_sources, "the alignment of translations"),
        (apply, "the model"),
        (_search, "a search"),
    ],
)
def test_the_functions_of_a_run_are_announced_in_users_words(function, name):
    assert compilation._name({"fun_name": f"jit({function.__name__})"}) == name


def test_what_pmap_compiles_has_a_name(monkeypatch):
    monkeypatch.setattr(compilation, "LONG", 0.001)
    said: list[str] = []
    with Compilations(said.append):
        jax.pmap(program(30))(jnp.ones((1, 4, 4)))
    assert any(text.startswith("Compiled a training or validation step in ") for text in said)

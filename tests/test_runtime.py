import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from transformer import runtime
from transformer.errors import InputError
from transformer.runtime import keep_freed_memory, resolve_dtype, use_compilation_cache


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_given_type_is_taken(dtype):
    assert resolve_dtype(dtype) == (dtype, "as configured")


@pytest.mark.parametrize(
    ("device", "flags", "expected"),
    [
        ({"platform": "cpu"}, {"avx2", "avx512_bf16"}, ("bfloat16", "the CPU has avx512_bf16")),
        ({"platform": "cpu"}, {"amx_bf16", "avx512_bf16"}, ("bfloat16", "the CPU has amx_bf16, avx512_bf16")),
        ({"platform": "cpu"}, {"avx2", "avx512f"}, ("float32", "the CPU has no bfloat16 instructions")),
        ({"platform": "gpu", "compute_capability": "7.5"}, set(), ("float32", "GPU of compute capability 7.5")),
        ({"platform": "gpu", "compute_capability": "9.0"}, set(), ("bfloat16", "GPU of compute capability 9.0")),
        ({"platform": "gpu", "compute_capability": "12.0"}, set(), ("bfloat16", "GPU of compute capability 12.0")),
        ({"platform": "tpu"}, set(), ("bfloat16", "a TPU computes in it")),
    ],
)
def test_auto_is_bfloat16_where_the_device_has_it(monkeypatch, device, flags, expected):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(**device)])
    monkeypatch.setattr(runtime, "_cpu_flags", lambda: flags)
    assert resolve_dtype("auto") == expected


def test_auto_without_a_device(monkeypatch):
    def devices() -> list:
        raise RuntimeError("Unable to initialize backend 'tpu'")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(InputError, match=r"no device to compute on \(Unable .*'tpu'\)\. Check JAX_PLATFORMS"):
        resolve_dtype("auto")


@pytest.fixture
def cache_dir():
    """jax's cache directory as it is without JAX_COMPILATION_CACHE_DIR; afterwards as it was."""
    names = [
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    ]
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.values["jax_compilation_cache_dir"]
    for name, value in before.items():
        jax.config.update(name, value)


def test_compilation_cache_lies_in_the_users_cache_directory(cache_dir, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    use_compilation_cache()
    assert cache_dir() == str(tmp_path / "xdg" / "transformer-jax")


@pytest.mark.parametrize("xdg", [None, ""])
def test_compilation_cache_without_xdg(cache_dir, monkeypatch, tmp_path: Path, xdg):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    use_compilation_cache()
    assert cache_dir() == str(tmp_path / ".cache" / "transformer-jax")


def test_compilation_cache_that_jax_was_given_stays(cache_dir, tmp_path: Path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))  # as JAX_COMPILATION_CACHE_DIR does
    use_compilation_cache()
    assert cache_dir() == str(tmp_path)


def test_freed_memory_is_kept_only_where_glibc_is(monkeypatch):
    monkeypatch.setattr(runtime.sys, "platform", "darwin")
    monkeypatch.setattr(runtime.ctypes, "CDLL", pytest.fail)
    keep_freed_memory()
    monkeypatch.setattr(runtime.sys, "platform", "linux")
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: object())  # musl has no mallopt
    keep_freed_memory()
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *call: calls.append(call)))
    keep_freed_memory()
    assert dict(calls) == {-8: 1, -4: 0, -1: -1, -2: 2**28}


@pytest.mark.parametrize(("prepare", "ready"), [("pass", False), ("runtime.compute_before_returning()", True)])
def test_a_call_returns_when_it_has_computed(prepare: str, ready: bool):
    program = (
        "import jax, jax.numpy as jnp\nfrom transformer import runtime\n"
        f"{prepare}\n"
        "power = jax.jit(lambda x: jax.lax.fori_loop(0, 50, lambda _, y: x @ y, x))\n"
        "x = jnp.eye(1000)\njax.block_until_ready(power(x))\nprint(power(x).is_ready())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{ready}\n"

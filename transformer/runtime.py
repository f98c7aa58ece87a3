"""What must be settled with the machine before the first array: allocator, compilation cache, compute type."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Literal

from transformer.errors import InputError

# mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory in the process instead of handing it back.

    XLA allocates its temporary buffer anew at each step on a CPU; by default glibc maps and unmaps it each time, and
    the page faults are a large part of the step. To be called before the first threads start; without glibc it does
    nothing.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never; 2^31 - 1 is less than the buffer of a large model
    libc.mallopt(_TOP_PAD, 2**28)


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache directory, unless jax was given another one.

    The directory is `transformer-jax` in `$XDG_CACHE_HOME`, or else in `~/.cache`; `JAX_COMPILATION_CACHE_DIR` names
    another.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        home = os.environ["XDG_CACHE_HOME"] if os.environ.get("XDG_CACHE_HOME") else Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "transformer-jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compute_before_returning() -> None:
    """On a CPU, let a call return when it has computed, as long as jax has not computed anything yet.

    By default jax runs ahead: further steps are given temporary buffers while the first one still computes, which at
    the paper's base size is 2 GiB each, and no faster where the host's cores are the device's.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def resolve_dtype(dtype: Literal["auto", "bfloat16", "float32"]) -> tuple[str, str]:
    """The compute type, `bfloat16` or `float32`, and the reason for it in words.

    `auto` is bfloat16 on a TPU, on a GPU of compute capability 8 or higher, and on a CPU with AVX512-BF16 or AMX-BF16.

    Raises:
        InputError: there is no device jax can use.
    """
    import jax

    try:
        device = jax.devices()[0]
    except (RuntimeError, AssertionError) as error:  # jax asserts where the platform it was told to use has no device
        reason = str(error) or "none of the platform asked for"
        raise InputError(
            f"jax finds no device to compute on ({reason}). Check JAX_PLATFORMS and the driver."
        ) from error
    if dtype != "auto":
        return dtype, "as configured"
    if device.platform == "tpu":
        return "bfloat16", "a TPU computes in it"
    if device.platform == "gpu":
        capability = getattr(device, "compute_capability", "0")
        fast = float(capability) >= 8
        return "bfloat16" if fast else "float32", f"GPU of compute capability {capability}"
    flags = _cpu_flags() & {"avx512_bf16", "amx_bf16"}
    if flags:
        return "bfloat16", f"the CPU has {', '.join(sorted(flags))}"
    return "float32", "the CPU has no bfloat16 instructions"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())

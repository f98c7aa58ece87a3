"""Process-level settings that must be made before JAX starts, and what JAX found to compute on."""

import ctypes
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from transformer.errors import InputError, require_choice

CACHED_FROM = 0.1  # seconds of compilation; reading a shorter one from the cache would save nothing

# mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
# The oldest drivers of CUDA 12 and of CUDA 13.
_CUDA12_DRIVER, _CUDA13_DRIVER = 525, 580


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache directory, unless JAX was given another directory.

    The directory is `transformer-jax` in `$XDG_CACHE_HOME`, or else in `~/.cache`; `JAX_COMPILATION_CACHE_DIR` names
    another. Nothing is kept if the directory cannot be made, as for a user without a home.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transformer-jax"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # RuntimeError: the user has no entry in the password database
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_FROM)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory in the process, if JAX will compute on the CPU.

    XLA:CPU allocates its temporary buffer anew at each step. By default glibc maps and unmaps it each time, and the
    page faults are a large part of the step. Call this before any thread starts. Without glibc it does nothing.
    """
    if sys.platform != "linux" or not _computes_on_cpu():
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never; 2^31 - 1 is less than the buffer of a large model
    libc.mallopt(_TOP_PAD, 2**28)


def compute_before_returning() -> None:
    """Let a call return only when it has computed, if JAX will compute on the CPU.

    By default JAX runs ahead: further steps get temporary buffers while the first one still computes. At the paper's
    base size a buffer is 2 GiB, and running ahead is no faster where the host's cores are the device's. Call this
    before JAX computes anything.
    """
    if not _computes_on_cpu():
        return
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def share_device_memory() -> None:
    """Let JAX allocate a GPU's memory as it needs it, for a process beside another that computes on it.

    By default JAX claims three quarters of the memory when it starts its backend: call this before. A choice of the
    user's stays.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _computes_on_cpu() -> bool:
    """Whether JAX will compute on the CPU, as far as can be known before it is imported."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms.split(",")[0] == "cpu"
    return find_spec("jax_plugins") is None and find_spec("libtpu") is None


def resolve_dtype(dtype: Literal["auto", "bfloat16", "float32"]) -> tuple[str, str]:
    """The compute dtype, `bfloat16` or `float32`, and the reason for it.

    `auto` is bfloat16 on a TPU, on a GPU of compute capability 8 or higher, and on a CPU with AVX512-BF16 or AMX-BF16.

    Raises:
        InputError: JAX finds no device, or there is no such compute type.
    """
    import jax

    require_choice("The compute type", dtype, ("auto", "bfloat16", "float32"))
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
        return "bfloat16", "native on TPU"
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


def unused_accelerator(root: Path = Path("/")) -> str | None:
    """What to do about an accelerator that is present while JAX only sees the CPU; None if there is none.

    Silent if the user chose the platform (`JAX_PLATFORMS`) or hid the GPUs (`CUDA_VISIBLE_DEVICES`).

    Args:
        root: where /dev, /proc, /sys and /usr are.
    """
    import jax

    if jax.config.jax_platforms or jax.default_backend() != "cpu":  # pyright: ignore[reportAttributeAccessIssue]
        return None
    if _has_nvidia_gpu(root) and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        driver, extra = _nvidia_driver(root)
        for fitting in (extra, "cuda12"):
            if find_spec(f"jax_{fitting}_plugin") is not None:
                return _present("An NVIDIA GPU", fitting, installed=True)
        old = driver is not None and driver < _CUDA12_DRIVER
        update = f"update the driver from {driver} to {_CUDA12_DRIVER} or later, and " if old else ""
        return _present("An NVIDIA GPU", extra, before=update)
    if _has_tpu(root):
        return _present("A TPU", "tpu", installed=find_spec("libtpu") is not None)
    return None


def _present(device: str, extra: str, *, installed: bool = False, before: str = "") -> str:
    if installed:
        return f"{device} is present and the extra `{extra}` is installed, but JAX only sees the CPU: see its warning."
    return f"{device} is present, but JAX only sees the CPU. To use it, {before}pip install 'transformer-jax[{extra}]'"


def _has_nvidia_gpu(root: Path) -> bool:
    """Whether there is a device file of an NVIDIA GPU, or WSL passes one through."""
    wsl = (root / "dev/dxg").exists() and any(root.glob("usr/lib/wsl/lib/libcuda.so*"))  # dxg alone: of any maker
    return wsl or any(root.glob("dev/nvidia[0-9]*"))


def _nvidia_driver(root: Path) -> tuple[int | None, str]:
    """The major version of the driver, if it can be read, and the extra for it.

    CUDA 12 supports every GPU and driver that CUDA 13 does. `cuda13` is chosen where it certainly works: it needs a GPU
    of the Turing generation or later, and so does the open kernel module.
    """
    try:
        text = (root / "proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        return None, "cuda12"
    found = re.search(r"Kernel Module.*?\s(\d+)\.\d", text)
    driver = None if found is None else int(found[1])
    return driver, "cuda13" if driver is not None and driver >= _CUDA13_DRIVER and "Open Kernel" in text else "cuda12"


def _has_tpu(root: Path) -> bool:
    """Whether there is a device file as TPUs have it, and a PCI device made by Google (which may be a network card)."""
    files = any(root.glob("dev/accel[0-9]*")) or any(root.glob("dev/vfio/[0-9]*"))
    vendors = (vendor.read_text().strip() for vendor in root.glob("sys/bus/pci/devices/*/vendor"))
    return files and "0x1ae0" in vendors

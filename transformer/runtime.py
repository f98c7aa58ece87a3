"""The environment, settings that must be made before JAX starts, and the devices that JAX finds."""

import ctypes
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from transformer.errors import InputError, require, require_choice

CACHED_FROM = 0.1  # seconds of compilation; loading a faster one from the cache would save nothing

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# Oldest major driver versions that support CUDA 12 and CUDA 13.
_CUDA12_DRIVER, _CUDA13_DRIVER = 525, 580


def require_bootstrap_seed() -> None:
    """Raises InputError if SACREBLEU_SEED, sacreBLEU's seed of the bootstrap, is set to what is no seed.

    sacreBLEU itself would notice only after everything is translated.
    """
    seed = os.environ.get("SACREBLEU_SEED", "none")
    require(
        seed.lower() == "none" or seed.isdecimal(),
        f"SACREBLEU_SEED must be a non-negative integer or none, but is {seed!r}. Correct or unset it.",
    )


def require_package(name: str) -> None:
    """Raises InputError unless a package of the extra `interop` is installed."""
    require(
        find_spec(name) is not None,
        f"This needs the package {name}. Install it with: pip install 'transformer-jax[interop]'",
    )


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache directory.

    The directory is `transformer-jax` in `$XDG_CACHE_HOME`, or else in `~/.cache`. The environment variable
    `JAX_COMPILATION_CACHE_DIR` names another. If the directory cannot be made, as for a user without a home directory,
    nothing is kept.
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
    """Tells glibc to keep freed memory in the process, if JAX will compute on the CPU.

    XLA:CPU allocates its temporary buffer again at each step. By default, glibc maps and unmaps it each time, and the
    page faults take a large part of the step. Call this before any thread starts. Without glibc it does nothing.
    """
    if sys.platform != "linux" or not computes_on_cpu():
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never trim; 2^31 - 1 is less than the buffer of a large model
    libc.mallopt(_TOP_PAD, 2**28)


def simulate_devices(number: int) -> None:
    """Makes JAX treat the CPU as several devices, in this process and its subprocesses.

    Call this before jax is imported.

    Args:
        number: Number of devices.

    Raises:
        InputError: JAX will compute on an accelerator.
    """
    require(
        computes_on_cpu(),
        "--devices simulates devices on a CPU, but JAX has a plugin for an accelerator. Set JAX_PLATFORMS=cpu to "
        "compute on the CPU.",
    )
    os.environ["JAX_NUM_CPU_DEVICES"] = str(number)


def compute_before_returning() -> None:
    """Makes calls return only when their results are computed, if JAX uses the CPU.

    By default, JAX dispatches ahead: later steps get temporary buffers while the first one still computes. At the
    paper's base size a buffer is 2 GiB. Dispatching ahead is no faster if the host's cores are the device. Call this
    before JAX computes anything.
    """
    if not computes_on_cpu():
        return
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def share_device_memory() -> None:
    """Lets JAX allocate a GPU's memory as needed, to share it with other processes.

    By default, JAX claims three quarters of the memory when it starts its backend. Call this before it does. If the
    user has set `XLA_PYTHON_CLIENT_PREALLOCATE`, that value is kept.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def repeat_results() -> None:
    """Makes XLA compute the same bits in every process on a GPU.

    It then adds to the embedding's gradient in a fixed order, and does not choose kernels by their measured time. Call
    this before JAX starts its backend, which reads `XLA_FLAGS` once.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    if _DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = " ".join([*flags, _DETERMINISTIC])


def leave_accelerators() -> None:
    """Makes this process compute on the CPU, so that its subprocesses have the accelerators to themselves.

    A TPU serves one process at a time, and JAX claims most of a GPU's memory. Call this before JAX starts its backend.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")


def computes_on_cpu() -> bool:
    """Guesses whether JAX will compute on the CPU, without importing it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms.split(",")[0] == "cpu"
    return find_spec("jax_plugins") is None and find_spec("libtpu") is None


def resolve_dtype(dtype: Literal["auto", "bfloat16", "float32"]) -> tuple[str, str]:
    """Resolves the compute dtype of a config.

    Args:
        dtype: `bfloat16`, `float32` or `auto`. The latter is bfloat16 on a TPU, on a GPU of compute capability 8 or
            higher, and on a CPU with AVX512-BF16 or AMX-BF16; it is float32 elsewhere.

    Returns:
        `bfloat16` or `float32`, and the reason for it, such as "native on TPU".

    Raises:
        InputError: JAX finds no device, or there is no compute dtype of this name.
    """
    import jax

    require_choice("The compute dtype", dtype, ("auto", "bfloat16", "float32"))
    try:
        device = jax.devices()[0]
    except (RuntimeError, AssertionError) as error:  # JAX asserts if the platform it was told to use has no device
        reason = str(error) or "there is none on the requested platform"
        raise InputError(
            f"JAX finds no device to compute on ({reason}). Check JAX_PLATFORMS and the driver."
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
    """Explains how to use an accelerator that is present but that JAX does not see.

    Args:
        root: Directory that contains `dev`, `proc`, `sys` and `usr`.

    Returns:
        One or two sentences, or None if there is no such accelerator. It is also None if the user chose the platform
        (`JAX_PLATFORMS`) or hid the GPUs (`CUDA_VISIBLE_DEVICES`).
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
        update = f"update the driver from {driver} to {_CUDA12_DRIVER} or later and " if old else ""
        return _present("An NVIDIA GPU", extra, before=update)
    if has_tpu(root):
        return _present("A TPU", "tpu", installed=find_spec("libtpu") is not None)
    return None


def _present(device: str, extra: str, *, installed: bool = False, before: str = "") -> str:
    seen = "but JAX only sees the CPU."
    if installed:
        return f"{device} is present and the extra `{extra}` is installed, {seen} JAX's own warning says why."
    return f"{device} is present, {seen} To use it, {before}run pip install 'transformer-jax[{extra}]'"


def _has_nvidia_gpu(root: Path) -> bool:
    """Tells whether there is an NVIDIA GPU, by its device file or through WSL."""
    wsl = (root / "dev/dxg").exists() and any(root.glob("usr/lib/wsl/lib/libcuda.so*"))  # dxg alone: any maker
    return wsl or any(root.glob("dev/nvidia[0-9]*"))


def _nvidia_driver(root: Path) -> tuple[int | None, str]:
    """Reads the driver's major version, if possible, and chooses the extra for it.

    CUDA 12 supports every GPU and driver that CUDA 13 does. `cuda13` is chosen only if it certainly works. It needs a
    GPU of the Turing generation or later, and so does the open kernel module.
    """
    try:
        text = (root / "proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        return None, "cuda12"
    found = re.search(r"Kernel Module.*?\s(\d+)\.\d", text)
    driver = None if found is None else int(found[1])
    return driver, "cuda13" if driver is not None and driver >= _CUDA13_DRIVER and "Open Kernel" in text else "cuda12"


def has_tpu(root: Path = Path("/")) -> bool:
    """Tells whether there is a TPU, by its device file and its PCI device.

    Neither is enough alone: a PCI device made by Google may also be a network card.
    """
    files = any(root.glob("dev/accel[0-9]*")) or any(root.glob("dev/vfio/[0-9]*"))
    vendors = (vendor.read_text().strip() for vendor in root.glob("sys/bus/pci/devices/*/vendor"))
    return files and "0x1ae0" in vendors

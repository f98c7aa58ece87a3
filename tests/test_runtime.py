import ctypes
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from transformer import runtime
from transformer.errors import InputError
from transformer.runtime import (
    keep_freed_memory,
    repeat_results,
    resolve_dtype,
    simulate_devices,
    unused_accelerator,
    use_compilation_cache,
)


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
        ({"platform": "tpu"}, set(), ("bfloat16", "native on TPU")),
    ],
)
def test_auto_is_bfloat16_where_the_device_has_it(monkeypatch, device, flags, expected):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(**device)])
    monkeypatch.setattr(runtime, "_cpu_flags", lambda: flags)
    assert resolve_dtype("auto") == expected


def test_an_unknown_type_is_refused():
    with pytest.raises(InputError, match=r"one of auto, bfloat16, float32, but is 'float23'\. Did you mean float32\?"):
        inspect.unwrap(resolve_dtype)("float23")


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


def test_deterministic_results_keep_the_users_flags(monkeypatch):
    flag = "--xla_gpu_deterministic_ops=true"
    for given, expected in (("", flag), ("--xla_a=1 --xla_b=2", f"--xla_a=1 --xla_b=2 {flag}"), (flag, flag)):
        monkeypatch.setenv("XLA_FLAGS", given)
        repeat_results()
        assert os.environ["XLA_FLAGS"] == expected


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


def test_no_compilation_cache_without_a_home(cache_dir, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/proc/none")  # which nobody can make
    use_compilation_cache()
    assert cache_dir() is None


def test_compilation_cache_that_jax_was_given_stays(cache_dir, tmp_path: Path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))  # as JAX_COMPILATION_CACHE_DIR does
    use_compilation_cache()
    assert cache_dir() == str(tmp_path)


@pytest.fixture
def no_plugins(monkeypatch):
    """No plugin for an accelerator is installed, and the user has not chosen a platform."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    yield
    monkeypatch.undo()


def mallopt_calls(monkeypatch) -> list:
    """What `keep_freed_memory` asks of the allocator."""
    calls: list = []
    libc = SimpleNamespace(mallopt=lambda *call: calls.append(call))
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: libc)
    keep_freed_memory()
    return calls


def test_freed_memory_is_kept_only_where_glibc_is(no_plugins, monkeypatch):
    monkeypatch.setattr(runtime.sys, "platform", "darwin")
    monkeypatch.setattr(runtime.ctypes, "CDLL", pytest.fail)
    keep_freed_memory()
    monkeypatch.setattr(runtime.sys, "platform", "linux")
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: object())  # musl has no mallopt
    keep_freed_memory()
    assert mallopt_calls(monkeypatch)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc has such an allocator")
@pytest.mark.parametrize(("prepare", "kept"), [("pass", False), ("runtime.keep_freed_memory()", True)])
def test_memory_that_was_freed_is_used_again_without_page_faults(monkeypatch, prepare: str, kept: bool):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("NUMPY_MADVISE_HUGEPAGE", "0")
    program = (
        "import resource\nimport numpy as np\nfrom transformer import runtime\n"
        f"{prepare}\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        # 64 MiB are 16,384 pages, or 32 where the kernel gives out huge ones.
        "np.ones(2**23)\nbefore = faults()\nnp.ones(2**23)\nprint(faults() - before < 16)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{kept}\n"


@pytest.mark.parametrize(
    ("platforms", "installed", "cpu"),
    [
        (None, [], True),
        ("", [], True),
        (None, ["jax_plugins"], False),
        (None, ["libtpu"], False),
        ("cpu", ["jax_plugins"], True),
        ("cuda,cpu", ["jax_plugins"], False),
        ("tpu", [], False),
    ],
)
def test_only_a_process_that_computes_on_the_cpu_is_set_up_for_it(no_plugins, monkeypatch, platforms, installed, cpu):
    if platforms is not None:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(runtime, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(runtime.sys, "platform", "linux")
    updates: list[tuple[str, bool]] = []
    monkeypatch.setattr(jax.config, "update", lambda *update: updates.append(update))
    runtime.compute_before_returning()
    assert updates == [("jax_cpu_enable_async_dispatch", False)] * cpu
    assert bool(mallopt_calls(monkeypatch)) == cpu


def test_devices_are_simulated_only_on_a_cpu(no_plugins, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    simulate_devices(4)
    monkeypatch.setattr(runtime, "find_spec", lambda name: name if name == "libtpu" else None)
    with pytest.raises(InputError, match=r"JAX has a plugin for an accelerator\. Set JAX_PLATFORMS=cpu"):
        simulate_devices(8)
    assert os.environ["JAX_NUM_CPU_DEVICES"] == "4"


@pytest.mark.parametrize(("prepare", "ready"), [("pass", False), ("runtime.compute_before_returning()", True)])
def test_a_call_returns_when_it_has_computed(monkeypatch, prepare: str, ready: bool):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    program = (
        "import jax, jax.numpy as jnp\nfrom transformer import runtime\n"
        f"{prepare}\n"
        "power = jax.jit(lambda x: jax.lax.fori_loop(0, 50, lambda _, y: x @ y, x))\n"
        "x = jnp.eye(1000)\njax.block_until_ready(power(x))\nprint(power(x).is_ready())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{ready}\n"


OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (root@build)\nGCC version:  12.3.0\n"
)
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Mon Aug  4 01:11:26 UTC 2025\nGCC version:  12.3.0\n"
GPU_UNUSED = "An NVIDIA GPU is present, but JAX only sees the CPU. To use it, "
TPU = {"dev/accel0": "", "sys/bus/pci/devices/0000:00:04.0/vendor": "0x1ae0\n"}


@pytest.fixture
def machine(no_plugins, monkeypatch, tmp_path: Path):
    """Makes a root directory of the given files, on a machine where JAX sees only the CPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    chosen = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", None)

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    yield make
    jax.config.update("jax_platforms", chosen)


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (OPEN.format("580.65.06"), "run pip install 'transformer-jax[cuda13]'"),
        (OPEN.format("590.44.01"), "run pip install 'transformer-jax[cuda13]'"),
        (OPEN.format("575.57.08"), "run pip install 'transformer-jax[cuda12]'"),
        (CLOSED.format("580.65.06"), "run pip install 'transformer-jax[cuda12]'"),  # perhaps a V100
        (CLOSED.format("535.104.05"), "run pip install 'transformer-jax[cuda12]'"),
        (
            CLOSED.format("470.256.02"),
            "update the driver from 470 to 525 or later and run pip install 'transformer-jax[cuda12]'",
        ),
        ("", "run pip install 'transformer-jax[cuda12]'"),
    ],
)
def test_an_unused_gpu_is_named_with_the_extra_for_its_driver(machine, version, advice):
    root = machine({"dev/nvidia1": "", "proc/driver/nvidia/version": version})
    assert unused_accelerator(root) == GPU_UNUSED + advice


def test_an_unused_gpu_under_wsl(machine):
    root = machine({"dev/dxg": "", "usr/lib/wsl/lib/libd3d12.so": ""})
    assert unused_accelerator(root) is None  # a GPU of another maker
    machine({"usr/lib/wsl/lib/libcuda.so.1": ""})
    assert unused_accelerator(root) == f"{GPU_UNUSED}run pip install 'transformer-jax[cuda12]'"


def test_an_unused_tpu_is_named(machine):
    advice = "A TPU is present, but JAX only sees the CPU. To use it, run pip install 'transformer-jax[tpu]'"
    assert unused_accelerator(machine(TPU)) == advice


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"dev/nvidiactl": "", "proc/driver/nvidia/version": OPEN.format("580.65.06")},  # a container without a GPU
        {"sys/bus/pci/devices/0000:00:04.0/vendor": "0x1ae0\n"},  # the network card of a virtual machine
        {"dev/vfio/vfio": "", "sys/bus/pci/devices/0000:00:04.0/vendor": "0x1ae0\n"},
        {"dev/vfio/0": "", "sys/bus/pci/devices/0000:00:04.0/vendor": "0x8086\n"},
    ],
)
def test_no_accelerator_is_made_up(machine, files):
    assert unused_accelerator(machine(files)) is None


def test_an_accelerator_that_the_user_does_not_want_is_not_named(machine, monkeypatch):
    root = machine({"dev/nvidia0": ""})
    assert unused_accelerator(root) is not None
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert unused_accelerator(root) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    jax.config.update("jax_platforms", "cpu")  # as JAX_PLATFORMS does
    assert unused_accelerator(root) is None
    jax.config.update("jax_platforms", None)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert unused_accelerator(root) is None


def test_an_accelerator_whose_extra_is_installed(machine, monkeypatch):
    installed = ["libtpu", "jax_cuda12_plugin"]
    monkeypatch.setattr(runtime, "find_spec", lambda name: name if name in installed else None)
    said = "is present and the extra `{}` is installed, but JAX only sees the CPU. JAX's own warning says why."
    assert unused_accelerator(machine(TPU)) == f"A TPU {said.format('tpu')}"
    for version in (CLOSED.format("535.104.05"), OPEN.format("580.65.06")):
        root = machine({"dev/nvidia0": "", "proc/driver/nvidia/version": version})
        assert unused_accelerator(root) == f"An NVIDIA GPU {said.format('cuda12')}"
    installed[1] = "jax_cuda13_plugin"
    assert unused_accelerator(root) == f"An NVIDIA GPU {said.format('cuda13')}"
    machine({"proc/driver/nvidia/version": CLOSED.format("535.104.05")})  # too old for CUDA 13
    assert unused_accelerator(root) == f"{GPU_UNUSED}run pip install 'transformer-jax[cuda12]'"

"""Hardware that a training step can be compiled for, present or not."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformer.errors import InputError, require
from transformer.starts import versions

PLUGINS = {"gpu": ("jax-cuda12-plugin", "jax-cuda13-plugin"), "tpu": ("libtpu",)}
"""Distributions that can compile for a backend; one is enough."""
EXTRAS = {"gpu": "cuda12", "tpu": "tpu"}
GPU_FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")
"""Flags for compiling without a card, which XLA would otherwise try kernels on."""
H100 = Path(__file__).with_name("h100.txt")
GIBIBYTE = 2**30
MEMORY = {
    # Google Cloud's documentation, per chip, which is one device.
    "TPU v4": 32 * GIBIBYTE,
    "TPU v5 lite": 16 * GIBIBYTE,
    "TPU v5": 95 * GIBIBYTE,
    "TPU v5p": 95 * GIBIBYTE,
    "TPU v6 lite": 32 * GIBIBYTE,
}
"""Memory of one device in bytes, by the kind of device as JAX names it."""


class Target(NamedTuple):
    """Hardware that a program is compiled for."""

    name: str
    backend: Literal["local", "gpu", "tpu"]
    topology: str = ""
    """Name of the devices in jax's plugin for the backend; empty for the devices of this machine."""


def parse_target(name: str) -> Target:
    """The hardware that a name means.

    Args:
        name: `local` for the devices of this machine; `h100`, or `h100xN` for N cards in one machine; or the topology
            of a TPU, such as `v5e:2x2`.

    Raises: InputError if the name means nothing.
    """
    if name == "local":
        return Target(name, "local")
    if cards := re.fullmatch(r"h100(?:x([1-9]\d*))?", name):
        return Target(name, "gpu", f"1x1x{cards[1] or 1}")
    require(
        re.fullmatch(r"v\w+:\d+(x\d+)+", name) is not None,
        "--target must be local, h100, h100xN for N cards in one machine, or a TPU topology such as v5e:2x2, but is "
        f"{name}.",
    )
    return Target(name, "tpu", name)


def prepare(target: Target) -> Mapping[str, str]:
    """Sets the environment variables for compiling without the device. Call this before jax is imported.

    Returns: The variables.

    Raises: InputError if jax's plugin for the target is not installed.
    """
    if target.backend == "local":
        return {}
    require(
        bool(versions(PLUGINS[target.backend])),
        f"Compiling for {target.name} needs jax's plugin for it, which is not installed. Install it with: "
        f"pip install 'transformer-jax[{EXTRAS[target.backend]}]'",
    )
    variables = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if target.backend == "gpu":
        given = os.environ.get("XLA_FLAGS", "").split()
        names = {flag.split("=")[0] for flag in given}
        variables["XLA_FLAGS"] = " ".join([*given, *(flag for flag in GPU_FLAGS if flag.split("=")[0] not in names)])
    else:
        # Otherwise libtpu asks the metadata server of a cloud machine which TPU it has.
        variables |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
    os.environ.update(variables)
    if (jax := sys.modules.get("jax")) is not None:  # which has read its variables already
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_compilation_cache", False)
    return variables


def devices_of(target: Target) -> list[Any]:
    """The devices of a target, for which a program can be compiled.

    Raises: InputError if XLA does not know the topology.
    """
    import jax
    from jax.experimental import topologies

    try:
        if target.backend == "local":
            return jax.devices()
        if target.backend == "tpu":
            return topologies.get_topology_desc(target.topology, platform="tpu").devices
        card = H100.read_text(encoding="utf-8")
        return topologies.get_topology_desc(platform="cuda", target_config=card, topology=target.topology).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"Cannot compile for {target.name}: {reason}") from error


def device_memory(target: Target, device: Any) -> int | None:
    """The memory of one device in bytes, as far as it is known.

    On a CPU this is the memory of the machine.
    """
    if target.backend == "gpu":
        found = re.search(r"device_memory_size: (\d+)", H100.read_text(encoding="utf-8"))
        assert found is not None
        return int(found[1])
    if target.backend == "local" and device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if target.backend == "local" and (statistics := device.memory_stats()):
        return statistics.get("bytes_limit")
    return MEMORY.get(device.device_kind)

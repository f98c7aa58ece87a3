"""The local devices, and rows dealt over them.

No other room counts devices. One device needs no mapping: its programs are the same as if there were no other.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from transformer.shapes import DEVICES


def count() -> int:
    """Returns the number of local devices."""
    return jax.local_device_count()


def kinds() -> list[str]:
    """Returns the kind of each device of all processes as JAX names it, such as `NVIDIA H200`."""
    return [device.device_kind for device in everywhere()]


def local() -> list[Any]:
    """Returns the local devices."""
    return jax.local_devices()


def everywhere() -> list[Any]:
    """Returns the devices of all processes."""
    return jax.devices()


def mesh() -> Mesh:
    """Returns the local devices as a mesh of one axis."""
    return Mesh(np.array(local()), (DEVICES,))


def replicate(tree: Any) -> Any:
    """Copies a tree of arrays to all local devices.

    Without this, a mapped program would be compiled twice, once for the initial sharding and once for its own.
    """
    return jax.device_put(tree, NamedSharding(mesh(), P()))


def share(tree: Any) -> Any:
    """Puts a tree of arrays where programs of `map_rows` expect it: on the only device, or on all local devices."""
    return jax.device_put(tree) if count() == 1 else replicate(tree)


def map_rows(function: Callable[[Any, Any], Any], replicated: Any, rows: Any, shards: int) -> Any:
    """Computes each device's rows on it, inside a jitted function.

    Args:
        function: Function of `replicated` and of one device's rows. It returns arrays of these rows.
        replicated: Tree of arrays that every device has.
        rows: Tree of arrays whose first axis is split over the devices.
        shards: Number of devices: all local ones, or 1 for a program without a mapped axis.

    Returns:
        The results for all rows.
    """
    if shards == 1:
        return function(replicated, rows)
    split = P(DEVICES)
    return jax.shard_map(function, mesh=mesh(), in_specs=(P(), split), out_specs=split, check_vma=False)(
        replicated, rows
    )

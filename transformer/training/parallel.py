"""Data parallelism over the local devices.

No other file knows how many devices there are. A step is a pure function of one device's share of the batch, and
`jax.pmap` maps it over the devices. The state is replicated: pmap maps it over no axis, so it enters and leaves as
plain arrays without a leading device axis. A checkpoint therefore does not depend on how many devices wrote it.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transformer.shapes import DEVICES, Batch


def num_devices() -> int:
    """The number of local devices that share a batch."""
    return jax.local_device_count()


def device_kinds() -> list[str]:
    """The kind of each local device as JAX names it, such as `NVIDIA H200`."""
    return [device.device_kind for device in jax.local_devices()]


def replicate(state: Any) -> Any:
    """Copies the state to all local devices, as `map_train_step` returns it.

    Without this, the step would be compiled twice, once for the initial sharding and once for its own.
    """
    return jax.device_put(state, NamedSharding(Mesh(jax.local_devices(), (DEVICES,)), PartitionSpec()))


def total(tree: Any) -> Any:
    """Sums a tree of arrays over all devices, inside a mapped step."""
    return lax.psum(tree, DEVICES)


def map_train_step(step: Callable[[Any, Batch], tuple[Any, Any]]) -> Callable[[Any, Batch], tuple[Any, Any]]:
    """Maps `step(state, batch) -> (state, metrics)` over all local devices.

    The memory of the old state is donated.

    Args:
        step: The function of one device. It must sum everything it returns over the devices with `total`.

    Returns: A function of the replicated state and of a batch [devices, ...], as `split` makes it.
    """
    return jax.pmap(step, axis_name=DEVICES, in_axes=(None, 0), out_axes=None, donate_argnums=0)


def map_eval_step(step: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch], Any]:
    """Maps `step(params, batch) -> sums` over all local devices."""
    return jax.pmap(step, axis_name=DEVICES, in_axes=(None, 0), out_axes=None)


def split(batch: Batch, accumulation_steps: int | None = None) -> Batch:
    """Splits the rows of a batch over devices and micro-batches.

    Neighbouring rows go to different shards, so the empty rows at the end of an incomplete batch are spread evenly.

    Args:
        batch: Arrays [rows, ...]. The number of rows must be a multiple of devices x accumulation steps.
        accumulation_steps: Number of micro-batches per device; None adds no axis for them.

    Returns: A batch [devices, accumulation_steps, B, ...], or [devices, B, ...] if `accumulation_steps` is None.
    """
    devices = num_devices()
    leading = (devices,) if accumulation_steps is None else (devices, accumulation_steps)

    def deal(x: np.ndarray) -> np.ndarray:
        dealt = x.reshape(-1, *leading, *x.shape[1:])
        return np.ascontiguousarray(np.moveaxis(dealt, 0, len(leading)))

    return jax.tree.map(lambda x: deal(np.asarray(x)), batch)

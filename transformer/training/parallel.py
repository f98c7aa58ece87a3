"""Data parallelism over the local devices: the only file that knows how many there are.

A step is a pure function of one device's share of the batch; `jax.pmap` maps it. The state is replicated, which pmap
expresses by mapping it over no axis: it goes in and comes out as plain arrays, without a leading device axis, so that a
checkpoint does not know how many devices wrote it.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transformer.shapes import DEVICES, Batch


def num_devices() -> int:
    """How many local devices share a batch."""
    return jax.local_device_count()


def replicate(state: Any) -> Any:
    """The state on all local devices, laid out as `map_train_step` returns it.

    Without this the step would be compiled twice for the shape of the first batch.
    """
    return jax.device_put(state, NamedSharding(Mesh(jax.local_devices(), (DEVICES,)), PartitionSpec()))


def total(tree: Any) -> Any:
    """The sum over all devices, within a mapped step."""
    return lax.psum(tree, DEVICES)


def map_train_step(step: Callable[[Any, Batch], tuple[Any, Any]]) -> Callable[[Any, Batch], tuple[Any, Any]]:
    """`step(state, batch) -> (state, metrics)` over all local devices; the old state's memory is reused.

    The step must sum whatever it returns, by `total`; its batch leads with the axis that `split` makes.
    """
    return jax.pmap(step, axis_name=DEVICES, in_axes=(None, 0), out_axes=None, donate_argnums=0)


def map_eval_step(step: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch], Any]:
    """`step(params, batch) -> sums` over all local devices."""
    return jax.pmap(step, axis_name=DEVICES, in_axes=(None, 0), out_axes=None)


def split(batch: Batch, accumulation_steps: int | None = None) -> Batch:
    """A batch with its rows dealt out: [devices, accumulation_steps, B, ...], or [devices, B, ...] for None.

    Neighbouring rows go to different pieces, so that the empty rows at the end of an incomplete batch are shared.
    """
    devices = num_devices()
    leading = (devices,) if accumulation_steps is None else (devices, accumulation_steps)

    def deal(x: np.ndarray) -> np.ndarray:
        dealt = x.reshape(-1, *leading, *x.shape[1:])
        return np.ascontiguousarray(np.moveaxis(dealt, 0, len(leading)))

    return jax.tree.map(lambda x: deal(np.asarray(x)), batch)

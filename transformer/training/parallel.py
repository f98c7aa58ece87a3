"""Data parallelism over the local devices, and the choice between it and a mesh.

A step is a pure function of one device's share of the batch, and `jax.pmap` maps it over the devices. The state is
replicated: pmap maps it over no axis, so it enters and leaves as plain arrays without a leading device axis. A
checkpoint therefore does not depend on how many devices wrote it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax

from transformer import devices, processes
from transformer.axes import ALONE
from transformer.config import ModelConfig, ParallelConfig
from transformer.devices import replicate
from transformer.shapes import DEVICES, Batch, Params
from transformer.training.arrangement import arrange
from transformer.training.mesh import MeshStrategy, deal


class PmapStrategy:
    """The entire model on each local device, and a part of each batch.

    `MeshStrategy` has the same attributes and methods.
    """

    axes = ALONE

    def create(self, init: Callable[[Params], Any], params: Params) -> Any:
        return replicate(init(params))

    def map_train_step(self, step: Callable[..., tuple[Any, Any]], state: Any) -> Callable[..., tuple[Any, Any]]:
        return map_train_step(partial(step, total=total))

    def map_eval_step(self, step: Callable[..., Any]) -> Callable[[Params, Batch], Any]:
        return map_eval_step(partial(step, total=total))

    def rows(self, number: int, accumulation_steps: int | None = None) -> np.ndarray:
        return np.arange(number)

    def split(self, batch: Batch, accumulation_steps: int | None = None) -> Batch:
        return split(batch, accumulation_steps)


def choose(config: ParallelConfig, model: ModelConfig) -> PmapStrategy | MeshStrategy:
    """Chooses how the devices of all processes train a model.

    Args:
        config: The settings.
        model: Architecture of the model.

    Raises:
        InputError: As `arrange` does.
    """
    every = devices.everywhere()
    if arrange(config, model, len(every), processes.number()).strategy == "mesh":
        return MeshStrategy(config, model, every)
    return PmapStrategy()


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
    leading = (devices.count(),) if accumulation_steps is None else (devices.count(), accumulation_steps)
    return jax.tree.map(lambda x: np.ascontiguousarray(deal(x, leading)), batch)

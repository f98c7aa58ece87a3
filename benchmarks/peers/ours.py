"""This project with start-up, training step and optimizer of `transformer train`.

As in training, the metrics of a step are fetched after the next step has been started.
"""

from transformer.runtime import compute_before_returning, keep_freed_memory, use_compilation_cache

keep_freed_memory()
use_compilation_cache()
compute_before_returning()

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from peers.job import LABEL_SMOOTHING, Arrays, Job, Size
from transformer.config import OptimizerConfig
from transformer.model import Transformer
from transformer.shapes import Batch
from transformer.training import parallel
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state, train_step


def model_of(size: Size, dtype: str, implementation: Literal["auto", "plain"] = "auto") -> Transformer:
    config = dataclasses.replace(size.config(), implementation=implementation)
    return Transformer(config, dtype=jnp.dtype(dtype))


def random_batch(size: Size, length: int = 32) -> Batch:
    """A batch of random tokens without padding.

    It has as many rows as `size.batch_tokens` allows.
    """
    rows = size.batch_tokens // length
    source, target = np.random.default_rng(0).integers(3, size.vocabulary, (2, rows, length), dtype=np.int32)
    mask = np.ones((rows, length), bool)
    return Batch(source, mask, target, target, mask, np.arange(rows, dtype=np.int32))


class Ours:
    packages = ("transformer-jax", "jax", "jaxlib", "flax", "optax")

    def __init__(self, job: Job, implementation: Literal["auto", "plain"] = "auto") -> None:
        model = model_of(job.size, job.dtype, implementation)
        optimizer = make_optimizer(OptimizerConfig(), job.size.d_model, steps=100_000)
        state = create_state(model, optimizer, seed=0)
        self.num_parameters = sum(x.size for x in jax.tree.leaves(state.params))
        self.note = job.dtype
        self._state = parallel.replicate(state)
        self._step = parallel.map_train_step(
            partial(
                train_step,
                model=model,
                optimizer=optimizer,
                label_smoothing=LABEL_SMOOTHING,
                seed=0,
                total=parallel.total,
            )
        )
        self._pending = None

    def step(self, batch: Arrays) -> None:
        self._state, metrics = self._step(self._state, parallel.split(Batch(*batch), 1))
        if self._pending is not None:
            jax.device_get(self._pending)
        self._pending = metrics

    def wait(self) -> float:
        jax.block_until_ready(self._state)
        metrics = jax.device_get(self._pending)
        return float(metrics["loss_sum"] / metrics["target_tokens"])

    def device_bytes(self) -> int | None:
        statistics = jax.devices()[0].memory_stats()
        return statistics["peak_bytes_in_use"] if statistics else None


start = Ours

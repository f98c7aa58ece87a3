"""Tests for a process with eight simulated CPU devices; `test_parallel.py` starts it."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.config import ModelConfig, OptimizerConfig
from transformer.model import Transformer
from transformer.training.optimizer import make_optimizer
from transformer.shapes import Batch
from transformer.training import parallel
from transformer.training.step import TrainState, create_state, eval_step, train_step

STEPS = 20
SHAPES = [(16, 6, 7, 3), (24, 5, 4, 9)]  # rows, S, T, empty rows


@pytest.fixture(scope="module")
def batches(make_batch) -> list[Batch]:
    return [make_batch(n, *SHAPES[n % 2]) for n in range(STEPS)]


def run(step: Any, config: ModelConfig, batches: list[Batch]) -> tuple[TrainState, list[dict[str, float]]]:
    """The state after all batches, and every step's metrics."""
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=10, scale=0.3), config.d_model, STEPS)
    axis_name = parallel.AXIS if step is parallel.map_train_step else None
    model = Transformer(config, axis_name=axis_name)
    update = step(
        partial(train_step, model=model, optimizer=optimizer, label_smoothing=0.1, seed=3, axis_name=axis_name)
    )
    state, log = create_state(model, optimizer, seed=3), []
    for batch in batches:
        state, metrics = update(state, batch)
        log.append({name: float(value) for name, value in metrics.items()})
    return state, log


def assert_equal(actual: tuple, expected: tuple, tolerance: float) -> None:
    (state, log), (expected_state, expected_log) = actual, expected
    for ours, theirs in zip(log, expected_log, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)
    worst = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max().clip(1e-3)), state, expected_state)
    print(log[-1], jax.tree_util.tree_leaves_with_path(worst))
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, expected_state)
    assert max(jax.tree.leaves(worst)) < tolerance


def test_eight_devices_equal_one_device_and_eight_accumulation_steps(tiny_model, batches):
    assert jax.local_device_count() == 8
    one = run(partial(jax.jit, donate_argnums=0), tiny_model, [Batch(*(x[None] for x in b)) for b in batches])
    eight = run(parallel.map_train_step, tiny_model, [parallel.split(b, 1) for b in batches])
    assert_equal(eight, one, 1e-5)
    pieces = [Batch(*(x.reshape(8, -1, *x.shape[1:]) for x in b)) for b in batches]
    assert_equal(run(partial(jax.jit, donate_argnums=0), tiny_model, pieces), one, 1e-5)


def test_batch_norm_has_the_statistics_of_all_devices(tiny_model, batches):
    config = dataclasses.replace(tiny_model, norm="batch", batch_norm_momentum=0.8)
    one = run(partial(jax.jit, donate_argnums=0), config, [Batch(*(x[None] for x in b)) for b in batches])
    eight = run(parallel.map_train_step, config, [parallel.split(b, 1) for b in batches])
    assert_equal(eight, one, 1e-5)

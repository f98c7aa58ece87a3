from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer.config import OptimizerConfig
from transformer.training.optimizer import (
    cosine_schedule,
    inverse_sqrt_schedule,
    learning_rate,
    make_optimizer,
    paper_schedule,
    warmup_stable_decay_schedule,
)
from transformer.training.optimizer import rates as rates_of_updates


def rates(schedule: optax.Schedule, steps: int) -> np.ndarray:
    """The rates of updates 1 to `steps`, computed as in a jitted step, where `count` is an int32 array."""
    counts = jnp.arange(steps, dtype=jnp.int32)
    return np.asarray(jax.jit(jax.vmap(schedule))(counts), np.float64)


@pytest.mark.parametrize(("d_model", "warmup_steps", "scale"), [(512, 4000, 1.0), (1024, 4000, 1.0), (256, 1, 2.5)])
def test_paper_schedule_is_equation_3(d_model: int, warmup_steps: int, scale: float):
    step = np.arange(1, 100_001, dtype=np.float64)
    expected = scale * d_model**-0.5 * np.minimum(step**-0.5, step * warmup_steps**-1.5)
    actual = rates(paper_schedule(d_model, warmup_steps, scale), 100_000)
    np.testing.assert_allclose(actual, expected, rtol=5e-7)
    assert 1 + np.argmax(actual) == warmup_steps
    np.testing.assert_allclose(actual.max(), scale / np.sqrt(d_model * warmup_steps), rtol=5e-7)


@pytest.mark.parametrize("final_fraction", [0.0, 0.4])
def test_inverse_sqrt_schedule(final_fraction: float):
    step = np.arange(1, 1001, dtype=np.float64)
    expected = 1.5e-3 * np.minimum(step / 100, np.sqrt(100 / step))
    if final_fraction:
        expected[600:] = expected[600] * (1000 - np.arange(600, 1000)) / 400
    schedule = inverse_sqrt_schedule(1.5e-3, 100, 1000, final_fraction)
    np.testing.assert_allclose(rates(schedule, 1000), expected, rtol=1e-6)
    assert (rates(schedule, 1001)[-1] == 0) == (final_fraction > 0)  # only after the last update


def test_inverse_sqrt_is_the_schedule_of_the_paper_given_its_peak():
    paper = paper_schedule(512, 4000)
    by_peak = inverse_sqrt_schedule((512 * 4000) ** -0.5, 4000, 20_000)
    np.testing.assert_allclose(rates(by_peak, 20_000), rates(paper, 20_000), rtol=1e-6)


@pytest.mark.parametrize("warmup_steps", [1, 100])
def test_cosine_schedule(warmup_steps: int):
    step = np.arange(1, 1001, dtype=np.float64)
    cosine = (1 + np.cos(np.pi * (step - warmup_steps) / (1001 - warmup_steps))) / 2
    expected = 2e-3 * np.where(step < warmup_steps, step / warmup_steps, cosine)
    schedule = cosine_schedule(2e-3, warmup_steps, 1000)
    np.testing.assert_allclose(rates(schedule, 1000), expected, rtol=1e-6, atol=2e-10)  # 1 + cos cancels at the end
    assert rates(schedule, 1001)[-1] == 0


def test_warmup_stable_decay_schedule():
    step = np.arange(1, 1001, dtype=np.float64)
    expected = 1e-3 * np.minimum(step / 50, 1) * np.minimum((1001 - step) / 200, 1)
    schedule = warmup_stable_decay_schedule(1e-3, 50, 1000, 0.2)
    np.testing.assert_allclose(rates(schedule, 1000), expected, rtol=1e-6)
    assert rates(schedule, 1001)[-1] == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OptimizerConfig(), paper_schedule(512, 4000)),
        (OptimizerConfig(warmup_steps=10, scale=2.0), paper_schedule(512, 10, 2.0)),
        (
            OptimizerConfig(schedule="inverse_sqrt", peak=1e-3, warmup_steps=10, final_fraction=0.25),
            inverse_sqrt_schedule(1e-3, 10, 100, 0.25),
        ),
        (OptimizerConfig(schedule="cosine", peak=1e-3, warmup_steps=10), cosine_schedule(1e-3, 10, 100)),
        (
            OptimizerConfig(schedule="warmup_stable_decay", peak=1e-3, warmup_steps=10, final_fraction=0.5),
            warmup_stable_decay_schedule(1e-3, 10, 100, 0.5),
        ),
    ],
)
def test_learning_rate_is_the_configured_schedule(config: OptimizerConfig, expected: optax.Schedule):
    np.testing.assert_array_equal(rates(learning_rate(config, 512, 100), 100), rates(expected, 100))


@pytest.mark.parametrize("final_fraction", [0.0, 0.4])
def test_rates_lists_the_rate_of_each_update(final_fraction: float):
    schedule = inverse_sqrt_schedule(1.5e-3, 100, 1000, final_fraction)
    np.testing.assert_allclose(rates_of_updates(schedule, 1000), rates(schedule, 1000), rtol=1e-6)


def reference_adam(params: dict, gradients: list[dict], config: OptimizerConfig, lrate: list[float]) -> dict:
    """Algorithm 1 of Kingma and Ba 2015 with decoupled weight decay on matrices, in float64."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    m, v = ({name: np.zeros_like(value) for name, value in params.items()} for _ in range(2))
    for step, (gradient, rate) in enumerate(zip(gradients, lrate, strict=True), start=1):
        norm = np.sqrt(sum(np.sum(np.asarray(g, np.float64) ** 2) for g in gradient.values()))
        clip = 1.0 if config.clip_norm is None else min(1.0, config.clip_norm / norm)
        for name, value in params.items():
            g = clip * np.asarray(gradient[name], np.float64)
            m[name] = config.b1 * m[name] + (1 - config.b1) * g
            v[name] = config.b2 * v[name] + (1 - config.b2) * g**2
            change = (m[name] / (1 - config.b1**step)) / (np.sqrt(v[name] / (1 - config.b2**step)) + config.epsilon)
            decay = config.weight_decay * value if value.ndim >= 2 else 0.0
            params[name] = value - rate * (change + decay)
    return params


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(warmup_steps=4),
        OptimizerConfig(warmup_steps=4, clip_norm=0.5),
        OptimizerConfig(warmup_steps=4, name="adamw", weight_decay=0.3, clip_norm=2.0),
        OptimizerConfig(warmup_steps=4, b1=0.8, b2=0.9, epsilon=1e-3),
    ],
    ids=["paper", "clipped", "adamw", "other moments"],
)
def test_updates_equal_the_float64_reference(config: OptimizerConfig):
    rng = np.random.default_rng(0)

    def arrays() -> dict[str, Any]:
        shapes = {"kernel": (5, 3), "heads": (2, 3, 4), "bias": (3,), "scalar": ()}
        return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    params, gradients = arrays(), [arrays() for _ in range(8)]
    lrate = [64**-0.5 * min(step**-0.5, step * 4**-1.5) for step in range(1, 9)]
    expected = reference_adam(params, gradients, config, lrate)

    optimizer = make_optimizer(config, 64, 8)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, gradient: Any):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
    for name, value in expected.items():
        np.testing.assert_allclose(params[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


def test_adamw_decays_matrices_only():
    config = OptimizerConfig(name="adamw", weight_decay=0.1, schedule="inverse_sqrt", peak=0.5, warmup_steps=1)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    optimizer = make_optimizer(config, 512, 10)
    updates: Any = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)[0]
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)

"""The learning rate and Adam (section 5.3).

Every schedule here is an optax schedule: a function of `count`, the number of updates made so far, which is 0 for the
first update. The paper counts from 1. So `count` is the paper's step minus one, and step `warmup_steps`, where the rate
is highest, is `count = warmup_steps - 1`. The first update is made with 1 / warmup_steps of the peak, not with 0; a
schedule that ends does so at `count = steps`, which is behind the last update, so that no update is made with 0 either.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from transformer.config import OptimizerConfig
from transformer.parameters import are_matrices


def paper_schedule(d_model: int, warmup_steps: int, scale: float = 1.0) -> optax.Schedule:
    """The paper's learning rate (section 5.3, Eq. 3).

    lrate = scale * d_model ** -0.5 * min(step ** -0.5, step * warmup_steps ** -1.5), with step = count + 1

    Args:
        d_model: Width of the model.
        warmup_steps: Updates of linear increase, to the highest rate, scale / sqrt(d_model * warmup_steps).
        scale: Factor on the whole; 1 is the paper's.

    Returns: The rate as a function of `count`, the number of updates made so far.
    """

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1
        return scale * d_model**-0.5 * jnp.minimum(step**-0.5, step * warmup_steps**-1.5)

    return schedule


def inverse_sqrt_schedule(peak: float, warmup_steps: int, steps: int, final_fraction: float = 0.0) -> optax.Schedule:
    """Equation 3 by its peak, with an optional linear end.

    lrate = peak * min(step / warmup_steps, sqrt(warmup_steps / step)), with step = count + 1

    Args:
        peak: Highest rate, reached at step `warmup_steps`.
        warmup_steps: Updates of linear increase.
        steps: Updates in all.
        final_fraction: Share of the steps, at the end, that go linearly to 0 from the rate where they begin.

    Returns: The rate as a function of `count`, the number of updates made so far.
    """

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1
        return peak * jnp.minimum(step / warmup_steps, jnp.sqrt(warmup_steps / step))

    return _end_linearly(schedule, steps, final_fraction)


def cosine_schedule(peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Linear warm-up, then half a cosine to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts).

    lrate = peak * (1 + cos(pi * (step - warmup_steps) / (steps + 1 - warmup_steps))) / 2, with step = count + 1, once
    step >= warmup_steps

    Args:
        peak: Highest rate, reached at step `warmup_steps`.
        warmup_steps: Updates of linear increase.
        steps: Updates in all, more than `warmup_steps`.

    Returns: The rate as a function of `count`, the number of updates made so far.
    """

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1
        decayed = jnp.clip((step - warmup_steps) / (steps + 1 - warmup_steps), 0, 1)
        return peak * jnp.minimum(step / warmup_steps, (1 + jnp.cos(jnp.pi * decayed)) / 2)

    return schedule


def warmup_stable_decay_schedule(peak: float, warmup_steps: int, steps: int, final_fraction: float) -> optax.Schedule:
    """Linear warm-up, constant, linear to 0 (Hu et al. 2024, arXiv 2404.06395, section 4).

    lrate = peak * min(step / warmup_steps, 1), with step = count + 1, until the last `final_fraction` of the steps

    Args:
        peak: Highest rate, reached at step `warmup_steps`.
        warmup_steps: Updates of linear increase.
        steps: Updates in all.
        final_fraction: Share of the steps, at the end, that go linearly to 0.

    Returns: The rate as a function of `count`, the number of updates made so far.
    """

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1
        return peak * jnp.minimum(step / warmup_steps, 1)

    return _end_linearly(schedule, steps, final_fraction)


def _end_linearly(schedule: optax.Schedule, steps: int, final_fraction: float) -> optax.Schedule:
    length = round(final_fraction * steps)
    if length == 0:
        return schedule

    def ending(count):
        left = jnp.clip((steps - jnp.asarray(count, jnp.float32)) / length, 0, 1)
        return schedule(jnp.minimum(count, steps - length)) * left

    return ending


def _peak(config: OptimizerConfig) -> float:
    assert config.peak is not None  # OptimizerConfig has checked it
    return config.peak


SCHEDULES: dict[str, Callable[[OptimizerConfig, int, int], optax.Schedule]] = {
    "paper": lambda config, d_model, steps: paper_schedule(d_model, config.warmup_steps, config.scale),
    "inverse_sqrt": lambda config, d_model, steps: inverse_sqrt_schedule(
        _peak(config), config.warmup_steps, steps, config.final_fraction
    ),
    "cosine": lambda config, d_model, steps: cosine_schedule(_peak(config), config.warmup_steps, steps),
    "warmup_stable_decay": lambda config, d_model, steps: warmup_stable_decay_schedule(
        _peak(config), config.warmup_steps, steps, config.final_fraction
    ),
}
"""The choices of `optimizer.schedule`, each made from the optimizer's config, d_model and the number of updates."""


def learning_rate(config: OptimizerConfig, d_model: int, steps: int) -> optax.Schedule:
    """The schedule that the config names.

    Args:
        config: The optimizer's config.
        d_model: Width of the model (the `paper` schedule depends on it).
        steps: Updates in all.

    Returns: The rate as a function of `count`, the number of updates made so far.
    """
    return SCHEDULES[config.schedule](config, d_model, steps)


def rates(schedule: optax.Schedule, steps: int) -> Float[np.ndarray, "steps"]:
    """The rates of the updates 1 to `steps`, for looking at.

    Args:
        schedule: The rate as a function of the number of updates made so far.
        steps: How many.
    """
    return np.asarray(schedule(np.arange(steps)))


def make_optimizer(config: OptimizerConfig, d_model: int, steps: int) -> optax.GradientTransformation:
    """Adam with the configured schedule (section 5.3; Kingma and Ba 2015, arXiv 1412.6980).

    `adamw` decays matrices only (Loshchilov and Hutter 2019, arXiv 1711.05101); biases and norms are left alone.

    Args:
        config: The optimizer's config.
        d_model: Width of the model (the `paper` schedule depends on it).
        steps: Updates in all.

    Returns: The transformation of the gradient that was summed over devices and divided by the tokens; clipping, where
        configured, is of its global norm and comes first.
    """
    rate = learning_rate(config, d_model, steps)
    if config.name == "adam":
        adam = optax.adam(rate, config.b1, config.b2, config.epsilon)
    else:
        adam = optax.adamw(
            rate, config.b1, config.b2, config.epsilon, weight_decay=config.weight_decay, mask=are_matrices
        )
    if config.clip_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)

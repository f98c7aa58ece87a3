"""Learning-rate schedules and Adam (section 5.3).

Every schedule is an optax schedule: a function of `count`, the number of updates made so far, which is 0 at the first
update. The paper counts steps from 1, so its step is `count + 1`, and the highest rate, at step `warmup_steps`, belongs
to `count = warmup_steps - 1`. The first update uses 1 / warmup_steps of the peak, not 0. A decaying schedule would
reach 0 at `count = steps`, one update after the last, so no update uses a rate of 0.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from transformer.config import OptimizerConfig
from transformer.parameters import are_matrices


def paper_schedule(d_model: int, warmup_steps: int, scale: float = 1.0) -> optax.Schedule:
    """The learning-rate schedule of the paper (section 5.3, Eq. 3).

    lrate = scale * d_model ** -0.5 * min(step ** -0.5, step * warmup_steps ** -1.5), with step = count + 1

    Args:
        d_model: Width of the model.
        warmup_steps: Number of warm-up updates, which rise linearly to the peak, scale / sqrt(d_model * warmup_steps).
        scale: Factor on the rate; the paper uses 1.

    Returns: The learning rate as a function of `count`, the number of updates made so far.
    """

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1
        return scale * d_model**-0.5 * jnp.minimum(step**-0.5, step * warmup_steps**-1.5)

    return schedule


def inverse_sqrt_schedule(peak: float, warmup_steps: int, steps: int, final_fraction: float = 0.0) -> optax.Schedule:
    """Equation 3 given by its peak rate, with an optional linear decay at the end.

    lrate = peak * min(step / warmup_steps, sqrt(warmup_steps / step)), with step = count + 1

    Args:
        peak: Highest learning rate, reached at step `warmup_steps`.
        warmup_steps: Number of warm-up updates, over which the rate rises linearly.
        steps: Total number of updates.
        final_fraction: Fraction of the steps, at the end, over which the rate decays linearly to 0.

    Returns: The learning rate as a function of `count`, the number of updates made so far.
    """

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1
        return peak * jnp.minimum(step / warmup_steps, jnp.sqrt(warmup_steps / step))

    return _end_linearly(schedule, steps, final_fraction)


def cosine_schedule(peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine decay to 0.

    The decay is half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983), without restarts.

    lrate = peak * (1 + cos(pi * (step - warmup_steps) / (steps + 1 - warmup_steps))) / 2, with step = count + 1, once
    step >= warmup_steps

    Args:
        peak: Highest learning rate, reached at step `warmup_steps`.
        warmup_steps: Number of warm-up updates, over which the rate rises linearly.
        steps: Total number of updates, more than `warmup_steps`.

    Returns: The learning rate as a function of `count`, the number of updates made so far.
    """

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1
        decayed = jnp.clip((step - warmup_steps) / (steps + 1 - warmup_steps), 0, 1)
        return peak * jnp.minimum(step / warmup_steps, (1 + jnp.cos(jnp.pi * decayed)) / 2)

    return schedule


def warmup_stable_decay_schedule(peak: float, warmup_steps: int, steps: int, final_fraction: float) -> optax.Schedule:
    """Linear warm-up, a constant rate, then linear decay to 0.

    The schedule of Hu et al. 2024 (arXiv 2404.06395, section 4).

    lrate = peak * min(step / warmup_steps, 1), with step = count + 1, until the last `final_fraction` of the steps

    Args:
        peak: Highest learning rate, reached at step `warmup_steps`.
        warmup_steps: Number of warm-up updates, over which the rate rises linearly.
        steps: Total number of updates.
        final_fraction: Fraction of the steps, at the end, over which the rate decays linearly to 0.

    Returns: The learning rate as a function of `count`, the number of updates made so far.
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
    """The learning-rate schedule selected by `config.schedule`.

    Args:
        config: The optimizer config.
        d_model: Width of the model; only the `paper` schedule depends on it.
        steps: Total number of updates.

    Returns: The learning rate as a function of `count`, the number of updates made so far.
    """
    return SCHEDULES[config.schedule](config, d_model, steps)


def rates(schedule: optax.Schedule, steps: int) -> Float[np.ndarray, "steps"]:
    """The learning rates of updates 1 to `steps`, for plots and tables.

    Args:
        schedule: The learning rate as a function of the number of updates made so far.
        steps: Number of updates.
    """
    return np.asarray(schedule(np.arange(steps)))


def make_optimizer(config: OptimizerConfig, d_model: int, steps: int) -> optax.GradientTransformation:
    """Adam with the configured schedule and gradient clipping (section 5.3).

    `adam` is by Kingma and Ba 2015 (arXiv 1412.6980). `adamw` (Loshchilov and Hutter 2019, arXiv 1711.05101) applies
    weight decay to matrices only, not to biases or norms.

    Args:
        config: The optimizer config.
        d_model: Width of the model; only the `paper` schedule depends on it.
        steps: Total number of updates.

    Returns: An optax transformation. Its input is the gradient of the mean loss per target token, over all devices. If
        configured, the global norm of the gradient is clipped first.
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

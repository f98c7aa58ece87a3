"""Batch normalization in a model: the only file that knows of running statistics and of a batch spread over devices.

To every other room the running statistics are variables: arrays that a model keeps besides its parameters, and that a
step of training updates. They are those of one accumulation step, over all devices.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer.ops.normalization import batch_norm
from transformer.shapes import DEVICES

COLLECTION = "batch_stats"
INITIAL = {"mean": 0.0, "variance": 1.0}


class BatchNorm(nn.Module):
    """Normalizes with the statistics of the batch in training, and with their running averages otherwise.

    Attributes:
        epsilon: added to the variance.
        momentum: share of the old running statistics that a step keeps.
    """

    epsilon: float
    momentum: float

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, training: bool) -> Array:
        """[B, T, D] -> [B, T, D]; the mask [B, T] is True for the tokens that the statistics count, None for all."""
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        mean, variance = (
            self.variable(COLLECTION, name, jnp.full, width, INITIAL[name], jnp.float32)
            for name in ("mean", "variance")
        )
        y, new_mean, new_variance = batch_norm(
            x,
            scale,
            bias,
            jnp.ones(x.shape[:2], bool) if mask is None else mask,
            mean.value,
            variance.value,
            epsilon=self.epsilon,
            momentum=self.momentum,
            train=training,
            axis_name=_axis_of_devices(),
        )
        if training and not self.is_initializing():
            mean.value, variance.value = new_mean, new_variance
        return y


def initial_variable(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A variable of an untrained model, by the last name on its path."""
    return np.full(shape, INITIAL[name], np.float32)


def _axis_of_devices() -> str | None:
    """The axis that the batch is spread over; None unless the program is mapped over devices."""
    try:
        lax.axis_size(DEVICES)
    except NameError:
        return None
    return DEVICES

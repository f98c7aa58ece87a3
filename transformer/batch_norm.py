"""Batch normalization as a module with running statistics.

Only this file knows of running statistics and of a batch that is split over devices. Elsewhere the statistics are
"variables": arrays that a model keeps besides its parameters, and that each training step updates. The statistics are
computed over one micro-batch at a time, on all devices together.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer.ops.normalization import batch_norm
from transformer.shapes import DEVICES, FSDP

COLLECTION = "batch_stats"
INITIAL = {"mean": 0.0, "variance": 1.0}


class BatchNorm(nn.Module):
    """Batch normalization that keeps running statistics.

    Training normalizes by the statistics of the batch, evaluation by their running averages.

    Attributes:
        epsilon: Constant added to the variance.
        momentum: Share of the old running statistics that a step keeps.
    """

    epsilon: float
    momentum: float

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, training: bool) -> Array:
        """Normalizes activations [B, T, D].

        Args:
            x: Activations.
            mask: True for the tokens that the statistics count, [B, T]; None counts every position.
            training: Whether to use the statistics of the batch and update the running ones.

        Returns:
            The normalized activations, in the dtype of `x`.
        """
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
            axis_name=_axes_of_rows(),
        )
        if training and not self.is_initializing():
            mean.value, variance.value = new_mean, new_variance
        return y


def initial_variable(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Makes a variable of an untrained model, in float32.

    Args:
        name: Last name on the path of the variable, `mean` or `variance`.
        shape: Shape of the variable.
    """
    return np.full(shape, INITIAL[name], np.float32)


def _axes_of_rows() -> tuple[str, ...] | None:
    """Returns the mapped axes over which the rows of a batch are split, or None if the program is not mapped."""
    return tuple(filter(_is_mapped, (DEVICES, FSDP))) or None


def _is_mapped(axis: str) -> bool:
    try:
        lax.axis_size(axis)
    except NameError:
        return False
    return True

"""Layer, RMS and batch normalization, with statistics in float32."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

from transformer.ops.mapped import AxisName, total
from transformer.ops.masks import require_bool


def layer_norm(
    x: Float[Array, "... D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    epsilon: float | Float[Array, ""] = 1e-6,
) -> Float[Array, "... D"]:
    """Normalizes each token over its features (section 3.1).

        y = scale * (x - mean(x)) / sqrt(var(x) + epsilon) + bias

    The source is Ba et al. 2016, arXiv 1607.06450, Eq. 4.

    Args:
        x: Features of each token.
        scale: Gain of each feature.
        bias: Offset of each feature.
        epsilon: Constant added to the (biased) variance. It may be traced.

    Returns:
        The normalized features, in the dtype of `x`.
    """
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon) * scale + bias).astype(x.dtype)


def rms_norm(
    x: Float[Array, "... D"], scale: Float[Array, " D"], epsilon: float | Float[Array, ""] = 1e-6
) -> Float[Array, "... D"]:
    """Scales each token to unit root mean square over its features.

        y = scale * x / sqrt(mean(x^2) + epsilon)

    The source is Zhang & Sennrich 2019, arXiv 1910.07467, Eq. 4.

    Deviates:
        The paper normalizes with `layer_norm`.

    Args:
        x: Features of each token.
        scale: Gain of each feature.
        epsilon: Constant added to the mean square. It may be traced.

    Returns:
        The normalized features, in the dtype of `x`.
    """
    x32 = x.astype(jnp.float32)
    mean_square = jnp.square(x32).mean(-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(mean_square + epsilon) * scale).astype(x.dtype)


def batch_norm(
    x: Float[Array, "B T D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    mask: Shaped[Array, "B T"],
    running_mean: Float[Array, " D"],
    running_variance: Float[Array, " D"],
    *,
    epsilon: float | Float[Array, ""] = 1e-6,
    momentum: float | Float[Array, ""],
    train: bool,
    axis_name: AxisName,
) -> tuple[Float[Array, "B T D"], Float[Array, " D"], Float[Array, " D"]]:
    """Normalizes each feature over the tokens of the batch.

        y = scale * (x - mean) / sqrt(variance + epsilon) + bias
        running = momentum * running + (1 - momentum) * batch

    The source is Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 1. Padding takes no part in the statistics.

    The variance is the biased one (divided by the number of tokens), both for normalizing and in the running
    statistics. So evaluation normalizes with an average of what training used. A batch without tokens is normalized
    by the running statistics and leaves them unchanged.

    Deviates:
        The paper normalizes with `layer_norm`.

    Args:
        x: Features of each token.
        scale: Gain of each feature.
        bias: Offset of each feature.
        mask: Boolean, True for tokens, False for padding.
        running_mean: Running average of the means of earlier batches.
        running_variance: Running average of the variances of earlier batches.
        epsilon: Constant added to the variance. It may be traced.
        momentum: Weight of the old running statistics in the new ones, in [0, 1]. It may be traced.
        train: Whether to normalize by the statistics of this batch and update the running ones. If False, the running
            statistics normalize, and are returned unchanged.
        axis_name: Name of the mapped axes over whose devices the batch is split; None if `x` is the entire batch.

    Returns:
        The normalized features in the dtype of `x`, the new running mean, and the new running variance.

    Raises:
        InputError: `mask` is not boolean.
    """
    require_bool(mask, "The mask of a batch's tokens")
    x32 = x.astype(jnp.float32)
    mean, variance = running_mean, running_variance
    if train:
        tokens = mask[:, :, None]
        count = total(mask.sum(dtype=jnp.float32), axis_name)
        safe_count = jnp.maximum(count, 1)
        batch_mean = total(jnp.where(tokens, x32, 0).sum((0, 1)), axis_name) / safe_count
        deviation = jnp.where(tokens, x32 - batch_mean, 0)
        batch_variance = total(jnp.square(deviation).sum((0, 1)), axis_name) / safe_count
        mean = jnp.where(count > 0, batch_mean, running_mean)
        variance = jnp.where(count > 0, batch_variance, running_variance)
        # Written as a step towards the batch's statistics, so that without tokens nothing changes, not even rounding.
        running_mean = running_mean + (1 - momentum) * (mean - running_mean)
        running_variance = running_variance + (1 - momentum) * (variance - running_variance)
    y = (x32 - mean) * jax.lax.rsqrt(variance + epsilon) * scale + bias
    return y.astype(x.dtype), running_mean, running_variance

"""Label-smoothed cross-entropy (section 5.4), without ever holding all the logits."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Shaped

from transformer.ops.linear import output_logits
from transformer.ops.mapped import AxisName, highest, num_parts, once, own_rows, total
from transformer.ops.masks import require_bool
from transformer.ops.precision import MatmulPrecision

CHUNK = 512  # tokens whose logits exist at the same time


def cross_entropy(
    hidden: Float[Array, "N D"],
    embedding: Float[Array, "V D"],
    bias: Float[Array, " V"] | None,
    targets: Int[Array, " N"],
    mask: Shaped[Array, " N"],
    *,
    label_smoothing: float | Float[Array, ""] = 0.0,
    chunk: int = CHUNK,
    precision: MatmulPrecision = "float32",
    axis_name: AxisName = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Computes the output layer and the label-smoothed loss (sections 3.4 and 5.4).

        loss = -sum_v q(v) log softmax(h W^T + b)(v)
        q = (1 - eps) onehot(y) + eps / V

    The smoothing mass eps is spread over the entire vocabulary, including the true token (Szegedy et al. 2016,
    section 7). The tokens are processed in chunks, and the backward pass recomputes the logits of each chunk. So the
    logits of only one chunk exist at a time.

    Args:
        hidden: Output h of the decoder, one row for each token.
        embedding: Output embedding W.
        bias: Bias b of the logits; zeros in the paper's model.
        targets: Ids y of the true tokens.
        mask: Boolean, True where a token counts.
        label_smoothing: Smoothing mass eps, in [0, 1). It may be traced.
        chunk: Number of tokens in a chunk, at least 1.
        precision: Precision of the output layer's products.
        axis_name: Name of the mapped axis over whose devices the vocabulary is split, so that `embedding` and `bias`
            have a device's own rows. None if they have all rows.

    Returns:
        The sum of the losses in nats, and the number of tokens that count. Both are float32; divide them for the mean.
        If the vocabulary is split, they are the sums of what the devices return. So the gradient is that of the sum
        over the devices.

    Raises:
        InputError: `mask` is not boolean.
    """

    @jax.checkpoint
    def chunk_loss(hidden: Array, targets: Array, mask: Array) -> Array:
        logits = output_logits(hidden, embedding, bias, precision=precision)
        logits -= highest(logits.max(axis=-1, keepdims=True), axis_name)
        log_total = jnp.log(total(jnp.exp(logits).sum(axis=-1), axis_name))
        expected = (1.0 - label_smoothing) * logits_of(targets, logits, axis_name)
        if isinstance(label_smoothing, Array) or label_smoothing:  # an array may be traced, and then has no truth value
            expected += label_smoothing * logits.sum(axis=-1) / (logits.shape[-1] * num_parts(axis_name))
        return jnp.sum((once(log_total, axis_name) - expected) * mask)

    def add(loss: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return loss + chunk_loss(*chunk), None

    loss, _ = lax.scan(add, jnp.zeros(()), in_chunks(hidden, targets, mask, chunk))
    return loss, once(mask.sum(dtype=jnp.float32), axis_name)


def logits_of(targets: Int[Array, " N"], logits: Float[Array, "N V"], axis_name: AxisName) -> Float[Array, " N"]:
    """Takes the logit of each true token, or 0 where another device has it.

    Args:
        targets: Ids of the true tokens.
        logits: Logits of this device's tokens of the vocabulary.
        axis_name: As in `cross_entropy`.
    """
    own, is_own = own_rows(targets, logits.shape[-1], axis_name)
    # An id of another device may be out of range, and is clipped.
    taken = jnp.take_along_axis(logits, own[:, None], axis=-1, mode=None if is_own is None else "clip")[:, 0]
    return taken if is_own is None else jnp.where(is_own, taken, 0)


def in_chunks(
    hidden: Float[Array, "N D"], targets: Int[Array, " N"], mask: Shaped[Array, " N"], chunk: int
) -> tuple[Float[Array, "C n D"], Int[Array, "C n"], Float[Array, "C n"]]:
    """Splits the tokens into C chunks of n = min(chunk, N) tokens.

    The last chunk is filled up with tokens that do not count.

    Args:
        hidden: As in `cross_entropy`.
        targets: As in `cross_entropy`.
        mask: As in `cross_entropy`.
        chunk: Largest number of tokens in a chunk, at least 1.

    Returns:
        The chunks of `hidden`, of `targets` and of `mask`; the mask is 1.0 where a token counts, else 0.0.

    Raises:
        InputError: `mask` is not boolean.
    """
    require_bool(mask, "A mask of target tokens")
    size = min(chunk, hidden.shape[0])
    fill = partial(jnp.pad, pad_width=(0, -hidden.shape[0] % size))
    return (
        jnp.pad(hidden, ((0, -hidden.shape[0] % size), (0, 0))).reshape(-1, size, hidden.shape[1]),
        fill(targets).reshape(-1, size),
        fill(mask).reshape(-1, size).astype(jnp.float32),
    )

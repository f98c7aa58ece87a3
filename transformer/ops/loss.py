"""Label-smoothed cross-entropy (section 5.4), without ever holding all the logits."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Shaped

from transformer.ops.linear import output_logits
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

    Returns:
        The sum of the losses in nats, and the number of tokens that count. Both are float32; divide them for the mean.

    Raises:
        InputError: `mask` is not boolean.
    """

    @jax.checkpoint
    def chunk_loss(hidden: Array, targets: Array, mask: Array) -> Array:
        log_probs = jax.nn.log_softmax(output_logits(hidden, embedding, bias, precision=precision), axis=-1)
        expected = (1.0 - label_smoothing) * jnp.take_along_axis(log_probs, targets[:, None], axis=-1)[:, 0]
        if isinstance(label_smoothing, Array) or label_smoothing:  # an array may be traced, and then has no truth value
            expected += label_smoothing * log_probs.mean(axis=-1)
        return -jnp.sum(expected * mask)

    def add(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return total + chunk_loss(*chunk), None

    total, _ = lax.scan(add, jnp.zeros(()), in_chunks(hidden, targets, mask, chunk))
    return total, mask.sum(dtype=jnp.float32)


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

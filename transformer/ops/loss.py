"""Label-smoothed cross-entropy (section 5.4), without ever holding all the logits."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Shaped

from transformer.ops.linear import output_logits
from transformer.ops.masks import require_bool

CHUNK = 512  # tokens whose logits exist at the same time


def cross_entropy(
    hidden: Float[Array, "N D"],
    embedding: Float[Array, "V D"],
    bias: Float[Array, " V"],
    targets: Int[Array, " N"],
    mask: Shaped[Array, " N"],
    *,
    label_smoothing: float = 0.0,
    chunk: int = CHUNK,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The output layer of section 3.4 and the loss of section 5.4 in one: -sum_v q(v) log softmax(h W^T + b)(v).

    The target distribution is q = (1 - eps) onehot(y) + eps / V: eps is spread over the whole vocabulary, the true
    token included (Szegedy et al. 2016, section 7).

    The tokens are taken in chunks, and a chunk's logits are computed again for the gradient, so they exist for one
    chunk at a time only.

    Args:
        hidden: the decoder's output.
        embedding: W, the output embedding.
        bias: b, the final logits bias (zeros for the paper's model).
        targets: y, the true token ids.
        mask: boolean, True where a token counts.
        label_smoothing: eps.
        chunk: tokens whose logits exist at the same time.

    Returns:
        The sum of the losses in nats and the number of tokens counted.

    Raises:
        InputError: the mask is not boolean.
    """

    @jax.checkpoint
    def chunk_loss(hidden: Array, targets: Array, mask: Array) -> Array:
        log_probs = jax.nn.log_softmax(output_logits(hidden, embedding, bias), axis=-1)
        expected = (1.0 - label_smoothing) * jnp.take_along_axis(log_probs, targets[:, None], axis=-1)[:, 0]
        if label_smoothing:
            expected += label_smoothing * log_probs.mean(axis=-1)
        return -jnp.sum(expected * mask)

    def add(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return total + chunk_loss(*chunk), None

    total, _ = lax.scan(add, jnp.zeros(()), in_chunks(hidden, targets, mask, chunk))
    return total, mask.sum(dtype=jnp.float32)


def in_chunks(
    hidden: Float[Array, "N D"], targets: Int[Array, " N"], mask: Shaped[Array, " N"], chunk: int
) -> tuple[Float[Array, "C n D"], Int[Array, "C n"], Float[Array, "C n"]]:
    """The tokens in C chunks of n = min(chunk, N), the last one filled up with tokens that do not count.

    Raises: InputError if the mask is not boolean.
    """
    require_bool(mask, "A mask of target tokens")
    size = min(chunk, hidden.shape[0])
    fill = partial(jnp.pad, pad_width=(0, -hidden.shape[0] % size))
    return (
        jnp.pad(hidden, ((0, -hidden.shape[0] % size), (0, 0))).reshape(-1, size, hidden.shape[1]),
        fill(targets).reshape(-1, size),
        fill(mask).reshape(-1, size).astype(jnp.float32),
    )

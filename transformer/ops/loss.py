"""Label-smoothed cross-entropy (section 5.4), without ever holding all the logits."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from transformer.ops.linear import dot, move_axis


def cross_entropy(
    hidden: Float[Array, "N D"],
    embedding: Float[Array, "V D"],
    bias: Float[Array, " V"],
    targets: Int[Array, " N"],
    mask: Bool[Array, " N"],
    *,
    label_smoothing: float = 0.0,
    chunk: int = 512,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The output layer of section 3.4 and the loss of section 5.4 in one: -sum_v q(v) log softmax(h W^T + b)(v).

    The target distribution is q = (1 - eps) onehot(y) + eps / V: eps is spread over the whole vocabulary, the true
    token included (Szegedy et al. 2016, section 7).

    The tokens are taken in chunks, and where a gradient is wanted, each chunk's is computed beside its loss: logits
    exist for one chunk at a time only, and only once.

    Args:
        hidden: the decoder's output; its type is the type of the products. The log-sum-exp is float32.
        embedding: W, the output embedding.
        bias: b, the final logits bias (zeros for the paper's model).
        targets: y, the true token ids.
        mask: True where a token counts.
        label_smoothing: eps.
        chunk: tokens whose logits exist at the same time.

    Returns:
        The sum of the losses in nats and the number of tokens counted.
    """
    tokens = hidden.shape[0]
    chunk = min(chunk, tokens)
    padding = -tokens % chunk
    chunks = (
        jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, chunk, hidden.shape[1]),
        jnp.pad(targets, (0, padding)).reshape(-1, chunk),
        jnp.pad(mask, (0, padding)).reshape(-1, chunk).astype(jnp.float32),
    )
    return _loss_sum(label_smoothing, chunks, embedding, bias), mask.sum(dtype=jnp.float32)


def _chunk_loss(
    label_smoothing: float, hidden: Array, targets: Array, mask: Array, embedding: Array, bias: Array
) -> tuple[Array, Array]:
    """The loss of one chunk, and its gradient with respect to the logits."""
    logits = dot(hidden, embedding, (1, 1)) + bias
    size = logits.shape[-1]
    top = logits.max(axis=-1, keepdims=True)
    exponentials = jnp.exp(logits - top)  # once: it is the dearest pass over the logits
    total = exponentials.sum(axis=-1, keepdims=True)
    true_logit = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    expected = (1.0 - label_smoothing) * true_logit
    if label_smoothing:
        expected += label_smoothing * logits.mean(axis=-1)
    loss = jnp.sum(((jnp.log(total) + top)[:, 0] - expected) * mask)
    is_true = jnp.arange(size) == targets[:, None]
    wanted = jnp.where(is_true, 1.0 - label_smoothing, 0.0) + label_smoothing / size
    return loss, (exponentials / total - wanted) * mask[:, None]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss_sum(label_smoothing: float, chunks: tuple[Array, Array, Array], embedding: Array, bias: Array) -> Array:
    embedding, bias = embedding.astype(chunks[0].dtype), bias.astype(jnp.float32)

    def add(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return total + _chunk_loss(label_smoothing, *chunk, embedding, bias)[0], None

    return lax.scan(add, jnp.zeros(()), chunks)[0]


def _loss_sum_forward(
    label_smoothing: float, chunks: tuple[Array, Array, Array], embedding: Array, bias: Array
) -> tuple[Array, tuple]:
    weights, offset = embedding.astype(chunks[0].dtype), bias.astype(jnp.float32)

    def add(sums: tuple[Array, Array, Array], chunk: tuple[Array, Array, Array]) -> tuple[tuple, Array]:
        total, dweights, doffset = sums
        loss, dlogits = _chunk_loss(label_smoothing, *chunk, weights, offset)
        dlogits = dlogits.astype(weights.dtype)
        dhidden = dot(dlogits, weights, (1, 0)).astype(weights.dtype)
        dweights += dot(move_axis(chunk[0], -1, 0), dlogits, (1, 0))
        return (total + loss, dweights, doffset + dlogits.sum(0, dtype=jnp.float32)), dhidden

    zeros = jnp.zeros(()), jnp.zeros(weights.shape[::-1]), jnp.zeros(offset.shape)
    (total, dweights, doffset), dhidden = lax.scan(add, zeros, chunks)
    return total, (dhidden, dweights.T.astype(embedding.dtype), doffset.astype(bias.dtype))


def _loss_sum_backward(label_smoothing: float, saved: tuple[Array, Array, Array], g: Array) -> tuple:
    dhidden, dembedding, dbias = saved
    return (dhidden * g.astype(dhidden.dtype), None, None), dembedding * g, dbias * g


_loss_sum.defvjp(_loss_sum_forward, _loss_sum_backward)

"""The loss of `ops` with its backward pass written out, as in `backward.py`."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Shaped

from transformer.ops.backward import Products, custom_vjp
from transformer.ops.loss import cross_entropy as plain_cross_entropy
from transformer.ops.loss import in_chunks


def cross_entropy(
    products: Products,
    hidden: Float[Array, "N D"],
    embedding: Float[Array, "V D"],
    bias: Float[Array, " V"],
    targets: Int[Array, " N"],
    mask: Shaped[Array, " N"],
    *,
    label_smoothing: float | Float[Array, ""] = 0.0,
    chunk: int,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Computes `ops.cross_entropy`, forming each chunk's logits only once.

    Under differentiation, the gradient of a chunk is computed along with its loss. The embedding is rounded to the
    dtype of `hidden`.

    `label_smoothing` given as an array may be traced. The plain function then computes the loss.
    """
    if isinstance(label_smoothing, Array):
        return plain_cross_entropy(hidden, embedding, bias, targets, mask, label_smoothing=label_smoothing, chunk=chunk)
    chunks = in_chunks(hidden, targets, mask, chunk)
    return _loss_sum(products, label_smoothing, chunks, embedding, bias), mask.sum(dtype=jnp.float32)


def _chunk_loss(
    products: Products,
    label_smoothing: float,
    chunk: tuple[Array, Array, Array],
    embedding: Array,
    bias: Array,
) -> tuple[Array, Array]:
    """Computes the loss of one chunk, and its gradient with respect to the logits."""
    hidden, targets, mask = chunk
    logits = products.dot(hidden, embedding, (1, 1), 0, jnp.float32) + bias
    size = logits.shape[-1]
    top = logits.max(axis=-1, keepdims=True)
    exponentials = jnp.exp(logits - top)  # shared: no pass over the logits costs more
    total = exponentials.sum(axis=-1, keepdims=True)
    true_logit = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    expected = (1.0 - label_smoothing) * true_logit
    if label_smoothing:
        expected += label_smoothing * logits.mean(axis=-1)
    loss = jnp.sum(((jnp.log(total) + top)[:, 0] - expected) * mask)
    is_true = jnp.arange(size) == targets[:, None]
    wanted = jnp.where(is_true, 1.0 - label_smoothing, 0.0) + label_smoothing / size
    return loss, (exponentials / total - wanted) * mask[:, None]


@partial(custom_vjp, nondiff_argnums=(0, 1))
def _loss_sum(
    products: Products, label_smoothing: float, chunks: tuple[Array, Array, Array], embedding: Array, bias: Array
) -> Array:
    embedding, bias = embedding.astype(chunks[0].dtype), bias.astype(jnp.float32)

    def add(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return total + _chunk_loss(products, label_smoothing, chunk, embedding, bias)[0], None

    return lax.scan(add, jnp.zeros(()), chunks)[0]


def _loss_sum_forward(
    products: Products, label_smoothing: float, chunks: tuple[Array, Array, Array], embedding: Array, bias: Array
) -> tuple[Array, tuple]:
    weights, offset = embedding.astype(chunks[0].dtype), bias.astype(jnp.float32)

    def add(sums: tuple[Array, Array, Array], chunk: tuple[Array, Array, Array]) -> tuple[tuple, Array]:
        total, dweights, doffset = sums
        loss, dlogits = _chunk_loss(products, label_smoothing, chunk, weights, offset)
        dlogits = dlogits.astype(weights.dtype)
        dhidden = products.dot(dlogits, weights, (1, 0), 0, weights.dtype)
        dweights += products.dot(products.move_axis(chunk[0], -1, 0), dlogits, (1, 0), 0, jnp.float32)
        return (total + loss, dweights, doffset + dlogits.sum(0, dtype=jnp.float32)), dhidden

    zeros = jnp.zeros(()), jnp.zeros(weights.shape[::-1]), jnp.zeros(offset.shape)
    (total, dweights, doffset), dhidden = lax.scan(add, zeros, chunks)
    return total, (dhidden, dweights.T.astype(embedding.dtype), doffset.astype(bias.dtype))


def _loss_sum_backward(products: Products, label_smoothing: float, saved: tuple[Array, Array, Array], g: Array) -> Any:
    dhidden, dembedding, dbias = saved
    return (dhidden * g.astype(dhidden.dtype), None, None), dembedding * g, dbias * g


_loss_sum.defvjp(_loss_sum_forward, _loss_sum_backward)

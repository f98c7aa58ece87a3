"""The loss of `ops` with its backward pass written out, as in `backward.py`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from transformer.ops.backward import Products, custom_vjp
from transformer.ops.loss import cross_entropy as plain_cross_entropy
from transformer.ops.loss import in_chunks, logits_of
from transformer.ops.mapped import AxisName, highest, num_parts, once, own_rows, total


class Logits(NamedTuple):
    """How a backend computes the logits of a chunk, and their softmax.

    Attributes:
        dtype: Dtype in which the logits are stored; None for that of `hidden`.
        softmax: Function of logits [N, V] and the name of the axis over which V is split. It returns probabilities in
            float32, and the log of each denominator [N, 1].
    """

    dtype: DTypeLike | None
    softmax: Callable[[Array, AxisName], tuple[Array, Array]]


def cross_entropy(
    products: Products,
    hidden: Float[Array, "N D"],
    embedding: Float[Array, "V D"],
    bias: Float[Array, " V"] | None,
    targets: Int[Array, " N"],
    mask: Shaped[Array, " N"],
    *,
    label_smoothing: float | Float[Array, ""] = 0.0,
    chunk: int,
    logits: Logits,
    axis_name: AxisName = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Computes `ops.cross_entropy`, forming each chunk's logits only once.

    Under differentiation, the gradient of a chunk is computed along with its loss. The embedding is rounded to the
    dtype of `hidden`.

    `label_smoothing` given as an array may be traced. The plain function then computes the loss.
    """
    if isinstance(label_smoothing, Array):
        options: Any = {"label_smoothing": label_smoothing, "chunk": chunk, "precision": products.precision}
        return plain_cross_entropy(hidden, embedding, bias, targets, mask, axis_name=axis_name, **options)
    chunks = in_chunks(hidden, targets, mask, chunk)
    settings = Settings(products, logits, label_smoothing, axis_name)
    return _loss_sum(settings, chunks, embedding, bias), once(mask.sum(dtype=jnp.float32), axis_name)


def softmax_with_stored_exponentials(logits: Array, axis_name: AxisName = None) -> tuple[Array, Array]:
    """Computes each exponential once, for both the sum and the quotient, and so stores them all."""
    top = highest(logits.max(axis=-1, keepdims=True), axis_name)
    exponentials = jnp.exp(logits - top)
    denominator = total(exponentials.sum(axis=-1, keepdims=True), axis_name)
    return exponentials / denominator, jnp.log(denominator) + top


def softmax_with_recomputed_exponentials(logits: Array, axis_name: AxisName = None) -> tuple[Array, Array]:
    """Computes each exponential twice and stores none: reading the logits again takes less time."""
    logits = logits.astype(jnp.float32)
    top = highest(logits.max(axis=-1, keepdims=True), axis_name)
    log_total = jnp.log(total(jnp.exp(logits - top).sum(axis=-1, keepdims=True), axis_name)) + top
    return jnp.exp(logits - log_total), log_total


class Settings(NamedTuple):
    """What is known of a loss when it is traced."""

    products: Products
    logits: Logits
    label_smoothing: float
    axis_name: AxisName


def _chunk_loss(
    settings: Settings, chunk: tuple[Array, Array, Array], embedding: Array, bias: Array | None
) -> tuple[Array, Array]:
    """Computes the loss of one chunk, and its gradient with respect to the logits."""
    (hidden, targets, mask), smoothing, axis_name = chunk, settings.label_smoothing, settings.axis_name
    own, size = embedding.shape[0], embedding.shape[0] * num_parts(axis_name)
    logits = settings.products.dot(hidden, embedding, (1, 1), 0, settings.logits.dtype or hidden.dtype)
    logits = logits if bias is None else (logits + bias).astype(logits.dtype)
    probabilities, log_total = settings.logits.softmax(logits, axis_name)
    expected = (1.0 - smoothing) * logits_of(targets, logits, axis_name).astype(jnp.float32)
    if smoothing:
        # The mean of the logits, from the mean of the embedding's rows: the logits are not read for it.
        mean = (hidden.astype(jnp.float32) * embedding.astype(jnp.float32).mean(0)).sum(-1)
        expected += smoothing * (own / size) * (mean if bias is None else mean + bias.mean())
    loss = jnp.sum((once(log_total[:, 0], axis_name) - expected) * mask)
    is_true = jnp.arange(own) == own_rows(targets, own, axis_name)[0][:, None]
    wanted = jnp.where(is_true, 1.0 - smoothing, 0.0) + smoothing / size
    return loss, (probabilities - wanted) * mask[:, None]


@partial(custom_vjp, nondiff_argnums=(0,))
def _loss_sum(settings: Settings, chunks: tuple[Array, Array, Array], embedding: Array, bias: Array | None) -> Array:
    embedding, bias = embedding.astype(chunks[0].dtype), _in_float32(bias)

    def add(loss: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return loss + _chunk_loss(settings, chunk, embedding, bias)[0], None

    return lax.scan(add, jnp.zeros(()), chunks)[0]


def _loss_sum_forward(
    settings: Settings, chunks: tuple[Array, Array, Array], embedding: Array, bias: Array | None
) -> tuple[Array, tuple]:
    weights, offset = embedding.astype(chunks[0].dtype), _in_float32(bias)
    dot, move_axis = settings.products.dot, settings.products.move_axis

    def add(sums: tuple[Array, Array, Array | None], chunk: tuple[Array, Array, Array]) -> tuple[tuple, Array]:
        total_loss, dweights, doffset = sums
        loss, dlogits = _chunk_loss(settings, chunk, weights, offset)
        dlogits = dlogits.astype(weights.dtype)
        dhidden = dot(dlogits, weights, (1, 0), 0, weights.dtype)
        dweights += dot(move_axis(chunk[0], -1, 0), dlogits, (1, 0), 0, jnp.float32)
        doffset = None if doffset is None else doffset + dlogits.sum(0, dtype=jnp.float32)
        return (total_loss + loss, dweights, doffset), dhidden

    zeros: Any = jnp.zeros(()), jnp.zeros(weights.shape[::-1]), None if offset is None else jnp.zeros(offset.shape)
    (loss, dweights, doffset), dhidden = lax.scan(add, zeros, chunks)
    dbias = None if bias is None else doffset.astype(bias.dtype)
    return loss, (dhidden, dweights.T.astype(embedding.dtype), dbias)


def _loss_sum_backward(settings: Settings, saved: tuple[Array, Array, Array | None], g: Array) -> Any:
    dhidden, dembedding, dbias = saved
    return (dhidden * g.astype(dhidden.dtype), None, None), dembedding * g, None if dbias is None else dbias * g


_loss_sum.defvjp(_loss_sum_forward, _loss_sum_backward)


def _in_float32(bias: Array | None) -> Array | None:
    return None if bias is None else bias.astype(jnp.float32)

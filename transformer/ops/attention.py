"""Scaled dot-product and multi-head attention (section 3.2)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from transformer.ops.linear import dot, move_axis, product_transposed


def scaled_dot_product_attention(
    query: Float[Array, "*batch Q E"],
    key: Float[Array, "*batch K E"],
    value: Float[Array, "*batch K E_value"],
    mask: Bool[Array, "..."] | None = None,
    *,
    dropout: Callable[[Array], Array] | None = None,
    return_weights: bool = False,
) -> tuple[Float[Array, "*batch Q E_value"], Float[Array, "*batch Q K"] | None]:
    """Section 3.2.1, Eq. 1: Attention(Q, K, V) = softmax(Q K^T / sqrt(E)) V, softmax in float32.

    Args:
        query: Q.
        key: K.
        value: V.
        mask: True where a query may attend to a key; broadcast to [*batch, Q, K]. None: everywhere. A query that may
            attend to nothing gets zeros, weights and result alike, and finite gradients.
        dropout: applied to the weights before they meet the values; None for none.
        return_weights: whether to return the weights.

    Returns:
        The attended values, and the softmax's weights in float32 (before dropout) if asked for, else None.
    """
    scores = product_transposed(query, key) / math.sqrt(query.shape[-1])
    weights = jax.nn.softmax(scores, axis=-1) if mask is None else _masked_softmax(scores, mask)
    mixed = weights.astype(value.dtype)
    attended = _mix(mixed if dropout is None else dropout(mixed), value)
    return attended, weights if return_weights else None


def split_heads(x: Float[Array, "*batch T D"], num_heads: int) -> Float[Array, "*batch {num_heads} T E"]:
    """Section 3.2.2: the D = H E features of one projection for all heads, taken apart by head."""
    *batch, length, width = x.shape
    return move_axis(x.reshape(*batch, length, num_heads, width // num_heads), -2, -3)


def merge_heads(x: Float[Array, "*batch H T E"]) -> Float[Array, "*batch T D"]:
    """Section 3.2.2: Concat(head_1, ..., head_h), the inverse of `split_heads`."""
    *batch, heads, length, size = x.shape
    return move_axis(x, -3, -2).reshape(*batch, length, heads * size)


def _masked_softmax(scores: Array, mask: Array) -> Array:
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    shifted = scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    exponentials = jnp.where(mask, jnp.exp(shifted), 0.0)
    total = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / jnp.where(total == 0.0, 1.0, total)


@jax.custom_vjp
def _mix(weights: Array, value: Array) -> Array:
    """The weighted sum of the values, accumulated in float32."""
    return dot(weights, value, (weights.ndim - 1, value.ndim - 2), batch=weights.ndim - 2).astype(value.dtype)


def _mix_forward(weights: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
    return _mix(weights, value), (weights, value)


def _mix_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    weights, value = saved
    batch = value.ndim - 2
    dweights = dot(g, value, (batch + 1, batch + 1), batch).astype(weights.dtype)
    dvalue = dot(move_axis(weights, -1, -2), g, (batch + 1, batch), batch).astype(value.dtype)
    return dweights, dvalue


_mix.defvjp(_mix_forward, _mix_backward)

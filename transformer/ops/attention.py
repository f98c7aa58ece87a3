"""Scaled dot-product and multi-head attention (section 3.2)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

from transformer.ops.masks import require_bool


def scaled_dot_product_attention(
    query: Float[Array, "*batch Q E"],
    key: Float[Array, "*batch K E"],
    value: Float[Array, "*batch K E_value"],
    mask: Shaped[Array, "..."] | None = None,
    *,
    dropout: Callable[[Array], Array] | None = None,
    return_weights: bool = False,
) -> tuple[Float[Array, "*batch Q E_value"], Float[Array, "*batch Q K"] | None]:
    """Section 3.2.1, Eq. 1: Attention(Q, K, V) = softmax(Q K^T / sqrt(E)) V, computed in float32.

    Args:
        query: Q.
        key: K.
        value: V.
        mask: boolean, True where a query may attend to a key; broadcast to [*batch, Q, K]. None: everywhere. A query
            that may attend to nothing gets zeros, weights and result alike, and finite gradients.
        dropout: applied to the weights before they are multiplied by the values; None for none.
        return_weights: whether to return the weights.

    Returns:
        The attended values in the type of `value`, and the softmax's weights in float32 (before dropout) if asked for,
        else None.

    Raises:
        InputError: the mask is not boolean.
    """
    q, k, v = (x.astype(jnp.float32) for x in (query, key, value))
    scores = jnp.einsum("...qe,...ke->...qk", q, k) / math.sqrt(query.shape[-1])
    weights = masked_softmax(scores, mask)
    mixed = weights if dropout is None else dropout(weights)
    attended = jnp.einsum("...qk,...ke->...qe", mixed, v)
    return attended.astype(value.dtype), weights if return_weights else None


def masked_softmax(scores: Float[Array, "*batch Q K"], mask: Shaped[Array, "..."] | None) -> Float[Array, "*batch Q K"]:
    """Softmax over the keys that a query may attend to; all zeros where there are none.

    Args:
        scores: Q K^T / sqrt(E).
        mask: as for `scaled_dot_product_attention`.
    """
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    require_bool(mask, "An attention mask")
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    shifted = scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    exponentials = jnp.where(mask, jnp.exp(shifted), 0.0)
    total = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / jnp.where(total == 0.0, 1.0, total)


def split_heads(x: Float[Array, "*batch T D"], num_heads: int) -> Float[Array, "*batch {num_heads} T E"]:
    """Section 3.2.2: the D = H E features of one projection for all heads, separated by head."""
    *batch, length, width = x.shape
    return jnp.moveaxis(x.reshape(*batch, length, num_heads, width // num_heads), -2, -3)


def merge_heads(x: Float[Array, "*batch H T E"]) -> Float[Array, "*batch T D"]:
    """Section 3.2.2: Concat(head_1, ..., head_h), the inverse of `split_heads`."""
    *batch, heads, length, size = x.shape
    return jnp.moveaxis(x, -3, -2).reshape(*batch, length, heads * size)

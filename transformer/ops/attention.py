"""Scaled dot-product and multi-head attention (section 3.2)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

from transformer.ops.masks import require_bool
from transformer.ops.precision import MatmulPrecision


def scaled_dot_product_attention(
    query: Float[Array, "*batch Q E"],
    key: Float[Array, "*batch K E"],
    value: Float[Array, "*batch K E_value"],
    mask: Shaped[Array, "..."] | None = None,
    *,
    dropout: Callable[[Array], Array] | None = None,
    return_weights: bool = False,
    precision: MatmulPrecision = "float32",
) -> tuple[Float[Array, "*batch Q E_value"], Float[Array, "*batch Q K"] | None]:
    """Computes scaled dot-product attention in float32 (section 3.2.1, Eq. 1).

        Attention(Q, K, V) = softmax(Q K^T / sqrt(E)) V

    Args:
        query: Queries Q. For several heads, the head is one of the batch axes.
        key: Keys K.
        value: Values V.
        mask: Boolean, True where a query may attend to a key; broadcast to [*batch, Q, K]. None lets every query
            attend to every key. A query that may attend to no key gets zeros, for its weights and for its result,
            and finite gradients.
        dropout: Function applied to the attention weights before they multiply the values. None applies no dropout.
        return_weights: Whether to return the attention weights.
        precision: Precision of both products.

    Returns:
        The attended values in the dtype of `value`, and the attention weights. The weights are the output of the
        softmax in float32, before dropout; they are None unless `return_weights` is set.

    Raises:
        InputError: `mask` is not boolean.
    """
    q, k, v = (x.astype(jnp.float32) for x in (query, key, value))
    scores = jnp.einsum("...qe,...ke->...qk", q, k, precision=precision) / math.sqrt(query.shape[-1])
    weights = masked_softmax(scores, mask)
    mixed = weights if dropout is None else dropout(weights)
    attended = jnp.einsum("...qk,...ke->...qe", mixed, v, precision=precision)
    return attended.astype(value.dtype), weights if return_weights else None


def masked_softmax(scores: Float[Array, "*batch Q K"], mask: Shaped[Array, "..."] | None) -> Float[Array, "*batch Q K"]:
    """Computes the softmax over the keys that each query may attend to.

    Args:
        scores: Scaled dot products Q K^T / sqrt(E).
        mask: As in `scaled_dot_product_attention`.

    Returns:
        The attention weights. They sum to 1 over the keys, or are all 0 for a query that may attend to no key.

    Raises:
        InputError: `mask` is not boolean.
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
    """Splits the output of one projection into heads (section 3.2.2).

    Args:
        x: Projection of all heads, side by side along the last axis.
        num_heads: Number of heads H, which must divide D.

    Returns:
        The projection of each head, with E = D / H features.
    """
    *batch, length, width = x.shape
    return jnp.moveaxis(x.reshape(*batch, length, num_heads, width // num_heads), -2, -3)


def merge_heads(x: Float[Array, "*batch H T E"]) -> Float[Array, "*batch T D"]:
    """Concatenates the heads, inverting `split_heads` (section 3.2.2).

        Concat(head_1, ..., head_h)

    Args:
        x: Attended values of each head.

    Returns:
        The features of all heads, D = H E of them, in the order of the heads.
    """
    *batch, heads, length, size = x.shape
    return jnp.moveaxis(x, -3, -2).reshape(*batch, length, heads * size)

"""Self-attention restricted to a neighbourhood (section 4), at the cost that Table 1 gives it."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from transformer.ops.attention import scaled_dot_product_attention


def restricted_attention(
    query: Float[Array, "*batch N E"],
    key: Float[Array, "*batch N E"],
    value: Float[Array, "*batch N E_value"],
    reach: int,
) -> Float[Array, "*batch N E_value"]:
    """Section 4: each position attends to the r = 2 reach + 1 positions around it, in O(r n d) operations.

    y_t = sum_s softmax_s(q_t k_s / sqrt(E)) v_s over |t - s| <= reach. A banded mask on all n^2 scores would give the
    same values and spare nothing. Here the positions are cut into blocks of `reach`, and a block attends to itself and
    to the block on either side: 3 reach keys to a query, of which the mask leaves r.

    Args:
        query: Q.
        key: K.
        value: V.
        reach: how far a position looks to either side, at least 1.

    Returns:
        The attended values.
    """
    length = query.shape[-2]
    blocks = -(-length // reach)

    def cut(x: Array) -> Array:
        filled = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, blocks * reach - length), (0, 0)])
        return filled.reshape(*x.shape[:-2], blocks, reach, x.shape[-1])

    def with_neighbours(x: Array) -> Array:
        x = jnp.pad(cut(x), [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0), (0, 0)])  # a block before, a block after
        return jnp.concatenate([x[..., :-2, :, :], x[..., 1:-1, :, :], x[..., 2:, :, :]], axis=-2)

    start = reach * jnp.arange(blocks)[:, None, None]
    query_place = start + jnp.arange(reach)[:, None]
    key_place = start + jnp.arange(-reach, 2 * reach)
    mask = (jnp.abs(query_place - key_place) <= reach) & (key_place >= 0) & (key_place < length)
    attended, _ = scaled_dot_product_attention(cut(query), with_neighbours(key), with_neighbours(value), mask)
    return attended.reshape(*query.shape[:-2], blocks * reach, value.shape[-1])[..., :length, :]

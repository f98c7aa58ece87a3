"""Self-attention restricted to a neighbourhood, at the cost stated in Table 1."""

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
    """Self-attention of each position to the positions around it (section 4).

    y_t = sum_s softmax_s(q_t k_s / sqrt(E)) v_s   over |t - s| <= reach

    With r = 2 reach + 1 it takes O(r n d) operations. A banded mask on all n^2 scores would give the same values
    without saving any. Here positions are grouped into blocks of `reach`, and each block attends to itself and its two
    neighbours. So a query is compared with 3 reach keys, of which the mask leaves r.

    Args:
        query: Q.
        key: K.
        value: V.
        reach: positions that a query attends to on either side, at least 1.

    Returns:
        The weighted sums of the values.
    """
    length = query.shape[-2]
    blocks = -(-length // reach)

    def to_blocks(x: Array) -> Array:
        filled = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, blocks * reach - length), (0, 0)])
        return filled.reshape(*x.shape[:-2], blocks, reach, x.shape[-1])

    def with_neighbours(x: Array) -> Array:
        x = jnp.pad(to_blocks(x), [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0), (0, 0)])  # an empty block at either end
        return jnp.concatenate([x[..., :-2, :, :], x[..., 1:-1, :, :], x[..., 2:, :, :]], axis=-2)

    start = reach * jnp.arange(blocks)[:, None, None]
    query_position = start + jnp.arange(reach)[:, None]
    key_position = start + jnp.arange(-reach, 2 * reach)
    mask = (jnp.abs(query_position - key_position) <= reach) & (key_position >= 0) & (key_position < length)
    attended, _ = scaled_dot_product_attention(to_blocks(query), with_neighbours(key), with_neighbours(value), mask)
    return attended.reshape(*query.shape[:-2], blocks * reach, value.shape[-1])[..., :length, :]

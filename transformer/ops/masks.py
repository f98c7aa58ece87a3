"""Attention masks (section 3.2.3): True means "may attend", and masks combine with `&`."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int


def padding_mask(tokens: Bool[Array, "B K"]) -> Bool[Array, "B 1 1 K"]:
    """Lets every query attend to the tokens of its row and to none of the padding.

    mask[b, h, q, k] = tokens[b, k]

    Args:
        tokens: True where the row has a token, False where it is padded.

    Returns:
        The mask, to be broadcast over heads and queries.
    """
    return tokens[:, None, None, :]


def causal_mask(length: int) -> Bool[Array, "1 1 T T"]:
    """Lets each position attend to itself and to the positions before it (section 3.2.3).

    mask[b, h, q, k] = k <= q

    Args:
        length: Positions T of the sequence, both as queries and as keys.

    Returns:
        The mask, to be broadcast over rows and heads.
    """
    position = jnp.arange(length)
    return (position[:, None] >= position[None, :])[None, None]


def segment_mask(query_segments: Int[Array, "B Q"], key_segments: Int[Array, "B K"]) -> Bool[Array, "B 1 Q K"]:
    """Keeps sentences that are packed into one row apart: a query attends to the keys of its own segment.

    mask[b, h, q, k] = query_segments[b, q] == key_segments[b, k] != 0

    Args:
        query_segments: Number of the sentence that each query belongs to, from 1; 0 is padding.
        key_segments: The same for the keys.

    Returns:
        The mask, to be broadcast over heads. Padding attends to nothing and nothing attends to it.
    """
    query, key = query_segments[:, None, :, None], key_segments[:, None, None, :]
    return (query == key) & (key != 0)

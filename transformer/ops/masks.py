"""Attention masks (section 3.2.3): True means "may attend", and masks combine with `&`."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int, Shaped

from transformer.errors import InputError


def require_bool(mask: Shaped[Array, "..."], what: str) -> None:
    """Raises InputError unless a mask is boolean: a float mask, 0 and -inf perhaps, would be read the wrong way round.

    Args:
        mask: what was given as a mask.
        what: its name at the start of a sentence.
    """
    if mask.dtype != bool:
        raise InputError(
            f"{what} must be boolean, with True for what counts, but its type is {mask.dtype}. An additive mask of 0 "
            "and -inf becomes one by `mask == 0`."
        )


def padding_mask(tokens: Shaped[Array, "B K"]) -> Bool[Array, "B 1 1 K"]:
    """Lets every query attend to the tokens of its row and to none of the padding.

    mask[b, h, q, k] = tokens[b, k]

    Args:
        tokens: True where the row has a token, False where it is padded.

    Returns:
        The mask, to be broadcast over heads and queries.

    Raises:
        InputError: `tokens` is not boolean.
    """
    require_bool(tokens, "The mask of a row's tokens")
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


def ancestor_mask(origins: Int[Array, "B K P"], position: Int[Array, ""] | int) -> Bool[Array, "B 1 K P*K"]:
    """Lets each hypothesis of a beam attend to its own tokens, where those of all hypotheses are kept side by side.

    mask[b, h, k, p K + j] = (origins[b, k, p] == j) and p <= position

    Args:
        origins: in which of the K places the token of hypothesis k at position p was computed.
        position: of the newest token.

    Returns:
        The mask, to be broadcast over heads; the keys are ordered by position, then by place.
    """
    batch, hypotheses, length = origins.shape
    own = origins[..., None] == jnp.arange(hypotheses)
    own &= (jnp.arange(length) <= position)[:, None]
    return own.reshape(batch, 1, hypotheses, length * hypotheses)


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

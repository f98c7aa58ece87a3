"""Boolean attention masks (section 3.2.3), True where a query may attend."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int, Shaped

from transformer.errors import InputError


def require_bool(mask: Shaped[Array, "..."], what: str) -> None:
    """Raises InputError unless a mask is boolean.

    A float mask, such as one of 0 and -inf, would be read the wrong way round.

    Args:
        mask: Array that was given as a mask.
        what: Name of the mask, as the beginning of a sentence.

    Raises:
        InputError: `mask` is not boolean.
    """
    if mask.dtype != bool:
        raise InputError(
            f"{what} must be boolean, with True for what counts, but its dtype is {mask.dtype}. Convert an additive "
            "mask of 0 and -inf with `mask == 0`."
        )


def padding_mask(tokens: Shaped[Array, "B K"]) -> Bool[Array, "B 1 1 K"]:
    """Lets every query attend to the tokens of its row, and to no padding.

        mask[b, h, q, k] = tokens[b, k]

    Args:
        tokens: Boolean, True where the row has a token, False where it is padded.

    Returns:
        The mask, to be broadcast over heads and queries.

    Raises:
        InputError: `tokens` is not boolean.
    """
    require_bool(tokens, "The mask of a row's tokens")
    return tokens[:, None, None, :]


def causal_mask(length: int) -> Bool[Array, "1 1 T T"]:
    """Lets each position attend to itself and to earlier positions (section 3.2.3).

        mask[b, h, q, k] = k <= q

    Args:
        length: Number of positions T, both as queries and as keys.

    Returns:
        The mask, to be broadcast over rows and heads.
    """
    position = jnp.arange(length)
    return (position[:, None] >= position[None, :])[None, None]


def ancestor_mask(origins: Int[Array, "B K P"], position: Int[Array, ""] | int) -> Bool[Array, "B 1 K P*K"]:
    """Lets each hypothesis of a beam attend to its own tokens only.

        mask[b, h, k, p K + j] = (origins[b, k, p] == j) and p <= position

    The keys hold the tokens of all K slots at every position. So the cache of a beam search need not be reordered
    when hypotheses move between slots.

    Args:
        origins: Slot, from 0 to K - 1, in which hypothesis k's token at position p was computed.
        position: Index of the newest token.

    Returns:
        The mask, to be broadcast over heads. Keys are ordered by position, then by slot.
    """
    batch, hypotheses, length = origins.shape
    own = origins[..., None] == jnp.arange(hypotheses)
    own &= (jnp.arange(length) <= position)[:, None]
    return own.reshape(batch, 1, hypotheses, length * hypotheses)


def segment_mask(query_segments: Int[Array, "B Q"], key_segments: Int[Array, "B K"]) -> Bool[Array, "B 1 Q K"]:
    """Lets each query attend to the keys of its own segment in a packed row.

        mask[b, h, q, k] = query_segments[b, q] == key_segments[b, k] != 0

    Args:
        query_segments: Number of the segment that each query belongs to, from 1; 0 is padding.
        key_segments: Number of the segment that each key belongs to, from 1; 0 is padding.

    Returns:
        The mask, to be broadcast over heads. Padding attends to nothing, and nothing attends to padding.
    """
    query, key = query_segments[:, None, :, None], key_segments[:, None, None, :]
    return (query == key) & (key != 0)


class AttentionMask(NamedTuple):
    """Which keys each query may attend to, without an array of queries and keys.

    Attributes:
        queries: Segment of each query, from 1; 0 is padding, which attends to nothing. None makes each row one
            segment.
        keys: Segment of each key. If `queries` is None, True for tokens and False for padding. None if there is no
            padding.
        is_causal: Whether no query attends to a key after its own position.
    """

    queries: Int[Array, "B Q"] | None
    keys: Shaped[Array, "B K"] | None
    is_causal: bool = False

    def dense(self, length: Any) -> Bool[Array, "#B 1 #Q K"] | None:
        """Makes the mask as an array that broadcasts to [B, H, Q, K].

        Args:
            length: Number of queries Q, which is symbolic under `jax.export`.

        Returns:
            True where a query may attend to a key, or None if every query may attend to every key.
        """
        if self.queries is not None and self.keys is not None:
            allowed = segment_mask(self.queries, self.keys)
        else:
            allowed = None if self.keys is None else padding_mask(self.keys)
        if not self.is_causal:
            return allowed
        causal = causal_mask(length)
        return causal if allowed is None else causal & allowed

    def segments(self, batch: int, queries: int, keys: int) -> tuple[Int[Array, "B Q"], Int[Array, "B K"]]:
        """Makes the segments of all queries and keys. A row that is one segment has segment 1.

        Args:
            batch: Number of rows B.
            queries: Number of queries Q.
            keys: Number of keys K.
        """
        of_queries = jnp.ones((batch, queries), jnp.int32) if self.queries is None else self.queries
        of_keys = jnp.ones((batch, keys), jnp.int32) if self.keys is None else self.keys.astype(jnp.int32)
        return of_queries, of_keys

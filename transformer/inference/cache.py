"""The cache of the decoder during a search. Only this file knows its axes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

ROWS, POSITIONS = -4, -2  # axes of keys and values, [B, H, P K, E] of one layer or [L, B, H, P K, E] of a stack


class Cache(NamedTuple):
    """What the decoder of a model attends to.

    Attributes:
        past: Keys and values of the tokens generated so far. Positions come first, so the entries of a sentence's K
            slots for one position are next to each other.
        source: Keys and values of the encoder's output.
        source_mask: True for the tokens of the source, [B, S].
    """

    past: Any
    source: Any
    source_mask: Any


def grow(caches: Any, positions: int, slots: int) -> Any:
    """Enlarges the caches of one or several models.

    Args:
        caches: One cache, or a tree of several.
        positions: Number of positions that the caches have room for afterwards.
        slots: Number of slots per sentence, K.

    Returns:
        Caches with the same entries, followed by zeros.
    """

    def pad(leaf: Array) -> Array:
        widths = [(0, 0)] * leaf.ndim
        widths[POSITIONS] = (0, positions * slots - leaf.shape[POSITIONS])
        return jnp.pad(leaf, widths)

    return _map(lambda cache: cache._replace(past=jax.tree.map(pad, cache.past)), caches)


def take(caches: Any, rows: Array) -> Any:
    """Selects rows of the batch from the caches of one or several models."""

    def taken(leaf: Array) -> Array:
        return jnp.take(leaf, rows, axis=ROWS)

    def of_one(cache: Cache) -> Cache:
        past, source = jax.tree.map(taken, (cache.past, cache.source))
        return Cache(past, source, jax.tree.map(lambda leaf: leaf[rows], cache.source_mask))

    return _map(of_one, caches)


def _map(function: Any, caches: Any) -> Any:
    return jax.tree.map(function, caches, is_leaf=lambda node: isinstance(node, Cache))

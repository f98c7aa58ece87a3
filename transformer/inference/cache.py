"""The decoder's cache as a search handles it. Only this file knows which of its axes is which."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

ROWS, POSITIONS = -4, -2  # axes of keys and values, [B, H, P K, E] of one layer or [L, B, H, P K, E] of a stack


class Cache(NamedTuple):
    """What a model's decoder reads besides the newest tokens.

    past: keys and values of the tokens so far: for each position, those of a sentence's K hypotheses side by side.
    source: keys and values of the encoder's output.
    source_mask: [B, S], True for the source's tokens.
    """

    past: Any
    source: Any
    source_mask: Any


def grow(caches: Any, positions: int, slots: int) -> Any:
    """Caches with room for `positions` tokens of each of `slots` hypotheses; of one model, or a tree of several."""

    def pad(leaf: Array) -> Array:
        widths = [(0, 0)] * leaf.ndim
        widths[POSITIONS] = (0, positions * slots - leaf.shape[POSITIONS])
        return jnp.pad(leaf, widths)

    return _map(lambda cache: cache._replace(past=jax.tree.map(pad, cache.past)), caches)


def take(caches: Any, rows: Array) -> Any:
    """The caches of some rows of the batch."""

    def taken(leaf: Array) -> Array:
        return jnp.take(leaf, rows, axis=ROWS)

    def of_one(cache: Cache) -> Cache:
        past, source = jax.tree.map(taken, (cache.past, cache.source))
        return Cache(past, source, jax.tree.map(lambda leaf: leaf[rows], cache.source_mask))

    return _map(of_one, caches)


def _map(function: Any, caches: Any) -> Any:
    return jax.tree.map(function, caches, is_leaf=lambda node: isinstance(node, Cache))

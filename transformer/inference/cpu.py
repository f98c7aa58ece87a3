"""The settings for decoding on a CPU.

Batches shrink as sentences end, caches grow, two batches run at once, and `top_k` is faster than XLA's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from transformer.inference.backend import Backend
from transformer.inference.cache import take
from transformer.inference.generation import Advance, Beams, State, plain, run_to
from transformer.ops.cpu import top_k

# Once at most 1/3 of the rows are unfinished, continue with only those rows (costs one more compiled loop).
SHARE = 3
FEWEST = 4  # remaining rows; for fewer, the additional loop costs more than it saves
NARROWEST = 20  # tokens; each further padded width is twice as wide


class Shrinking(NamedTuple):
    """A schedule of several loops, whose caches grow and whose batches shrink.

    Attributes:
        horizons: Number of positions in the cache of each loop but the last, in ascending order. A loop ends when its
            cache is full. The cache of the last loop has room for the longest translation.
        few: Number of sentences that continue together in the last loop. It begins once at most this many are live,
            or when the caches before it are full. 0 keeps all sentences together.
    """

    horizons: tuple[int, ...]
    few: int

    def __call__(self, advance: Advance, state: State) -> Beams:
        for positions in self.horizons:
            state = run_to(advance, state, positions, self.few)
        if not self.few:
            return plain(advance, state)

        def finish_some(state: State) -> State:
            live = state.beams.live
            chosen = jnp.argsort(~live)[: self.few]
            some = jax.tree.map(lambda leaf: leaf[chosen], state.beams)
            some = plain(advance, State(state.position, some, take(state.cache, chosen)))
            chosen = jnp.where(live[chosen], chosen, len(live))  # out of bounds, so finished sentences are not changed
            put = jax.tree.map(lambda leaf, new: leaf.at[chosen].set(new, mode="drop"), state.beams, some)
            return state._replace(beams=put)

        return lax.while_loop(lambda state: state.beams.live.any(), finish_some, state).beams


def schedule(width: int, rows: int, max_length: int) -> Shrinking:
    """Makes the schedule for a batch of `rows` sources padded to `width` tokens.

    Few translations are longer than the padded source, so the first loops have a cache of that size or less.
    """
    few = rows // SHARE if rows >= SHARE * FEWEST else 0
    horizons = [width] if few or max_length > 100 else []
    while horizons and horizons[0] >= 4 * 40:
        horizons.insert(0, horizons[0] // 4)
    return Shrinking(tuple(positions for positions in horizons if positions < max_length), few)


def widths(longest: int) -> list[int]:
    """The padded widths up to `longest` tokens, each twice the previous one."""
    found = [NARROWEST]
    while found[-1] < longest:
        found.append(2 * found[-1])
    return [*found[:-1], longest]


CPU = Backend(
    batch_tokens=2560,
    at_once=2,  # much of a step is too small to use all cores, and a second batch uses the idle ones
    widths=widths,
    row_divisor=4,
    schedule=schedule,
    top_k=top_k,
)

"""What serves a CPU when it decodes: batches that shrink, caches that grow, two at once, and a faster `top_k`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from transformer.inference.backend import Backend
from transformer.inference.cache import take
from transformer.inference.generation import Advance, Beams, State, plain, run_to
from transformer.ops.cpu import top_k

SHARE = 3  # once at most a third of the sentences are live, they go on without the others
FEWEST = 4  # sentences for which that is worth it
NARROWEST = 20  # tokens; each wider padded width is twice the last one


class Shrinking(NamedTuple):
    """A schedule of several loops over caches that grow, the last ones with few sentences at a time.

    horizons: positions of the caches before the last one, which has room for the longest translation. A loop ends when
        its cache is full.
    few: once no more sentences than this are live, and in the last loop, this many continue at a time. 0 keeps all
        sentences together.
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
            chosen = jnp.where(live[chosen], chosen, len(live))  # out of bounds: what was done already stays as it is
            put = jax.tree.map(lambda leaf, new: leaf.at[chosen].set(new, mode="drop"), state.beams, some)
            return state._replace(beams=put)

        return lax.while_loop(lambda state: state.beams.live.any(), finish_some, state).beams


def schedule(width: int, rows: int, max_length: int) -> Shrinking:
    """Few translations are longer than the padded source."""
    few = rows // SHARE if rows >= SHARE * FEWEST else 0
    horizons = [width] if few or max_length > 100 else []
    while horizons and horizons[0] >= 4 * 40:
        horizons.insert(0, horizons[0] // 4)
    return Shrinking(tuple(positions for positions in horizons if positions < max_length), few)


def widths(longest: int) -> list[int]:
    found = [NARROWEST]
    while found[-1] < longest:
        found.append(2 * found[-1])
    return [*found[:-1], longest]


CPU = Backend(
    batch_tokens=2560,
    at_once=2,  # much of a step is too small to be spread over the cores, and the other batch fills them
    widths=widths,
    row_divisor=4,
    schedule=schedule,
    top_k=top_k,
)

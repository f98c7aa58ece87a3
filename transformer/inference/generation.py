"""The loop that generates translations token by token, for beam search and for sampling (`inference/search.py`).

At each step the model gives the log-probabilities of the next token of every hypothesis, and `choose` decides how the
hypotheses go on and which of them have ended. A `Schedule` runs the steps: `plain` here, or one that suits a backend
better (`inference/cpu.py`). The model is known by its `step`, and the layout of its cache only to `inference/cache.py`.
A sentence's translation does not depend on its batch: every sentence has its own longest length, its own end and its
own random numbers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from transformer.inference.cache import grow
from transformer.inference.ensemble import Cache, Step

Constrain = Callable[[Array, Array, Array], Array]  # (log_probs [B, K, V], tokens [B, K, L], position []) -> log_probs


class Hypotheses(NamedTuple):
    """The N best translations of each sentence, best first.

    tokens: token ids up to the end id, which is always there, then pad ids; at most L.
    scores: log-probability over length penalty; -inf where the search found fewer than N translations.
    lengths: tokens in each, the end id counted; 0 where there is none.
    """

    tokens: Int[Array, "B N L"]
    scores: Float[Array, "B N"]
    lengths: Int[Array, "B N"]


class Ended(NamedTuple):
    """Hypotheses that have ended, N of each sentence."""

    origins: Array  # [B, N, 1 + L], the slots that hold their tokens, the start id first
    scores: Array  # [B, N], -inf where there is none yet
    lengths: Array  # [B, N], the end token counted


class Beams(NamedTuple):
    """What a search keeps of each sentence: K slots for its live hypotheses, and the hypotheses that have ended."""

    tokens: Array  # [B, K, 1 + L], the token that each slot got at each position; like the cache, they never move
    origins: Array  # [B, K, 1 + L], the slots that hold each live hypothesis's tokens
    log_probs: Array  # [B, K], of live hypotheses; -inf for the others
    ended: Ended
    max_lengths: Array  # [B, 1]
    keys: Any  # [B, K], of the random numbers of samples; None in a beam search

    @property
    def live(self) -> Array:
        """[B], whether the search goes on for each sentence."""
        return jnp.any(self.log_probs > -jnp.inf, axis=1)


class State(NamedTuple):
    """A search after `position` steps."""

    position: Array
    beams: Beams
    cache: Cache


Advance = Callable[[int, State], State]  # makes one step, with a cache of that many positions
Schedule = Callable[[Advance, State], Beams]  # advances until no sentence is live


def plain(advance: Advance, state: State) -> Beams:
    """Runs all sentences together until the last one has ended, with room for the longest translation at once."""
    return run_to(advance, state, state.beams.tokens.shape[2] - 1).beams


def run_to(advance: Advance, state: State, positions: int, fewest: int = 0) -> State:
    """Advances up to `positions` steps, while more than `fewest` sentences are live."""

    def goes_on(state: State) -> Array:
        return (state.beams.live.sum() > fewest) & (state.position < positions)

    grown = state._replace(cache=grow(state.cache, positions, slots=state.beams.tokens.shape[1]))
    return lax.while_loop(goes_on, partial(advance, positions), grown)


class Choice(NamedTuple):
    """How a step goes on. `log_probs` and `ended` are those of `Beams` after the step."""

    parents: Array  # [B, K], the slot of the hypothesis that each slot continues
    tokens: Array  # [B, K], its next token
    log_probs: Array
    ended: Ended


Choose = Callable[[Beams, Array, Array, Array], Choice]  # (beams, own [B, K, V], allowed [B, K, V], length []) -> ...


def generate(
    step: Step,
    cache: Cache,
    max_lengths: Array,
    choose: Choose,
    *,
    slots: int,
    live_slots: int,
    num_best: int,
    max_length: int,
    start_id: int,
    end_id: int,
    pad_id: int,
    constrain: Constrain | None,
    schedule: Schedule,
    keys: Array | None = None,
) -> Hypotheses:
    """Generates tokens until every sentence has ended; see `beam_search` for what is not said here.

    Args:
        step, cache, max_lengths, num_best, max_length, start_id, end_id, pad_id, constrain, schedule: as for
            `beam_search`.
        choose: takes the state, the model's own log-probabilities of the next token, those that the constraints have
            left, and the length of a hypothesis with that token.
        slots: hypotheses a sentence, K.
        live_slots: how many of them begin live.
        keys: [B, K], what `choose` draws with.
    """

    def advance(positions: int, state: State) -> State:
        position, beams, cache = state
        token, origins = beams.tokens[:, :, position], beams.origins[:, :, :positions]
        logits, cache = step(cache, token, position, origins)
        own = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        ids = jnp.arange(own.shape[-1])
        allowed = jnp.where((ids == start_id) | (ids == pad_id), -jnp.inf, own)
        if constrain is not None:
            allowed = constrain(allowed, _follow(beams.tokens, beams.origins), position)

        length = position + 1
        parents, tokens, log_probs, ended = choose(beams, own, allowed, length)
        beams = beams._replace(
            tokens=beams.tokens.at[:, :, length].set(tokens),
            origins=take_slots(beams.origins, parents).at[:, :, length].set(every_slot),
            log_probs=log_probs,
            ended=ended,
        )
        return State(length, beams, cache)

    batch, every_slot = max_lengths.shape[0], jnp.arange(slots)
    max_lengths = jnp.minimum(max_lengths, max_length)[:, None]
    beams = Beams(
        tokens=jnp.full((batch, slots, 1 + max_length), start_id),
        origins=jnp.broadcast_to(every_slot[:, None], (batch, slots, 1 + max_length)),
        log_probs=jnp.where((every_slot < live_slots) & (max_lengths > 0), 0.0, -jnp.inf),
        ended=Ended(
            origins=jnp.zeros((batch, num_best, 1 + max_length), int),
            scores=jnp.full((batch, num_best), -jnp.inf),
            lengths=jnp.zeros((batch, num_best), int),
        ),
        max_lengths=max_lengths,
        keys=keys,
    )
    beams = schedule(advance, State(jnp.array(0), beams, cache))
    origins, scores, lengths = beams.ended
    lengths, positions = jnp.where(scores > -jnp.inf, lengths, 0), jnp.arange(1, 1 + max_length)
    tokens = _follow(beams.tokens, origins)[:, :, 1:]
    tokens = jnp.where(positions < lengths[..., None], tokens, pad_id)
    return Hypotheses(jnp.where(positions == lengths[..., None], end_id, tokens), scores, lengths)


def take_slots(leaf: Array, index: Array) -> Array:
    """leaf[b, index[b, k]] for every sentence b."""
    index = index.reshape(*index.shape, *(1,) * (leaf.ndim - 2))
    return jnp.take_along_axis(leaf, index, axis=1, mode="promise_in_bounds")


def _follow(tokens: Array, origins: Array) -> Array:
    """The tokens [B, N, 1 + L] in the slots [B, N, 1 + L]."""
    return jnp.take_along_axis(tokens, origins, axis=1, mode="promise_in_bounds")

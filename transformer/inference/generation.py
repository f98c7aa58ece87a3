"""The loop that generates translations token by token.

Beam search and sampling (`inference/search.py`) both use it.

At each step, the model computes next-token logits for every hypothesis. The function `choose` then decides which tokens
continue the hypotheses and which hypotheses have ended. A `Schedule` runs the steps: `plain` in this file, or one that
suits a backend better (`inference/cpu.py`). The loop calls the model only through `step`, and only `inference/cache.py`
knows the layout of its cache.

The translation of a sentence does not depend on its batch. Every sentence has its own maximum length, stops
independently, and has its own random numbers.
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

    Attributes:
        tokens: Token ids. Every translation ends with the end id, and pad ids fill the rest of its row.
        scores: Log-probability divided by the length penalty; -inf where the search found fewer than N translations.
        lengths: Number of tokens, including the end token; 0 where there is no translation.
    """

    tokens: Int[Array, "B N L"]
    scores: Float[Array, "B N"]
    lengths: Int[Array, "B N"]


class Ended(NamedTuple):
    """The N best hypotheses of each sentence that have ended."""

    origins: Array  # [B, N, 1 + L], the slot that holds the token at each position, beginning with the start token
    scores: Array  # [B, N], -inf while fewer than N hypotheses have ended
    lengths: Array  # [B, N], including the end token


class Beams(NamedTuple):
    """The state of a search for each sentence, with K slots for live hypotheses."""

    tokens: Array  # [B, K, 1 + L], the token generated in each slot at each position; they never move
    origins: Array  # [B, K, 1 + L], for each live hypothesis, the slot that holds its token at each position
    log_probs: Array  # [B, K], log-probabilities of live hypotheses; -inf in the other slots
    ended: Ended
    max_lengths: Array  # [B, 1]
    keys: Any  # [B, K], PRNG keys for sampling; None in a beam search

    @property
    def live(self) -> Array:
        """Whether the search of each sentence is unfinished, [B]."""
        return jnp.any(self.log_probs > -jnp.inf, axis=1)


class State(NamedTuple):
    """The state of a search after `position` steps."""

    position: Array
    beams: Beams
    cache: Cache


Advance = Callable[[int, State], State]  # (positions in the cache, state) -> state after one more step
Schedule = Callable[[Advance, State], Beams]  # runs `advance` until no sentence is live


def plain(advance: Advance, state: State) -> Beams:
    """Runs all sentences together until the last one has ended.

    The cache has room for the longest translation from the start.
    """
    return run_to(advance, state, state.beams.tokens.shape[2] - 1).beams


def run_to(advance: Advance, state: State, positions: int, fewest: int = 0) -> State:
    """Advances while more than `fewest` sentences are live and the cache has room.

    Args:
        advance: Makes one step.
        state: Where to begin.
        positions: Number of positions in the cache, which is enlarged first. The loop ends when it is full.
        fewest: The loop also ends once at most this many sentences are live.

    Returns:
        The state after the last step.
    """

    def goes_on(state: State) -> Array:
        return (state.beams.live.sum() > fewest) & (state.position < positions)

    grown = state._replace(cache=grow(state.cache, positions, slots=state.beams.tokens.shape[1]))
    return lax.while_loop(goes_on, partial(advance, positions), grown)


class Choice(NamedTuple):
    """The decision of `choose` at one step."""

    parents: Array  # [B, K], the slot of the hypothesis that each slot continues
    tokens: Array  # [B, K], the next token of that hypothesis
    log_probs: Array  # as in `Beams`, after the step
    ended: Ended  # as in `Beams`, after the step


Choose = Callable[[Beams, Array, Array, Array], Choice]  # (beams, own [B, K, V], allowed [B, K, V], length [])


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
    """Generates tokens until every sentence has ended.

    Args:
        step: As for `beam_search`, like all arguments that are not listed here.
        cache: As for `beam_search`.
        max_lengths: As for `beam_search`.
        choose: Decides how the hypotheses continue. It takes the state, the log-probabilities of the next token before
            and after the constraints, and the length of a hypothesis including its next token.
        slots: Number of hypotheses per sentence, K.
        live_slots: Number of slots that are live at the start.
        keys: PRNG keys for `choose`, [B, K]. None if it draws nothing.

    Returns:
        The `num_best` best hypotheses of each sentence that have ended.
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
    """Takes `leaf[b, index[b, k]]` for every sentence b and slot k."""
    index = index.reshape(*index.shape, *(1,) * (leaf.ndim - 2))
    return jnp.take_along_axis(leaf, index, axis=1, mode="promise_in_bounds")


def _follow(tokens: Array, origins: Array) -> Array:
    """Looks up the tokens of hypotheses whose slots are `origins`, both [B, N, 1 + L]."""
    return jnp.take_along_axis(tokens, origins, axis=1, mode="promise_in_bounds")

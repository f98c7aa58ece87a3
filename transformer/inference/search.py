"""Beam search (section 6.1) and sampling, as pure functions over a `step` callable; a beam of 1 is greedy search.

Both are loops over one kind of state, which a `Schedule` runs: `plain` here, or one that suits a backend better
(`inference/cpu.py`). The model is known by its `step`, and the layout of its cache only to `inference/cache.py`. A
sentence's translation does not depend on its batch: every sentence has its own longest length, its own end and its own
random numbers.

What may not be generated is the caller's: `constrain` is any composition of the functions in `ops/logits.py`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from transformer.inference.cache import grow

Cache = Any  # of one model or several, as `inference/cache.py` lays it out
Step = Callable[[Cache, Array, Array, Array], tuple[Array, Cache]]  # (cache, token, position, origins) -> ...
Constrain = Callable[[Array, Array, Array], Array]  # (log_probs [B, K, V], tokens [B, K, L], position []) -> log_probs
TopK = Callable[[Array, int], Any]  # such as lax.top_k: the k largest of each row, largest first, and their indices


class Hypotheses(NamedTuple):
    """The N best translations of each sentence, best first.

    tokens: token ids up to the end id, which is always there, then pad ids; at most L.
    scores: log-probability over length penalty; -inf where the search found fewer than N translations.
    lengths: tokens in each, the end id counted; 0 where there is none.
    """

    tokens: Int[Array, "B N L"]
    scores: Float[Array, "B N"]
    lengths: Int[Array, "B N"]


class State(NamedTuple):
    """A search on its way.

    position: steps taken.
    sentences: what the search keeps of each sentence: arrays [B, ...].
    cache: what `step` reads and writes.
    """

    position: Int[Array, ""]
    sentences: Any
    cache: Cache


class Loop(NamedTuple):
    """A search as a loop, for a `Schedule` to run.

    advance: one step, with a cache of that many positions.
    live: [B], whether each sentence goes on.
    slots: hypotheses of a sentence, K, each with its slot at every position of the cache.
    max_length: steps of the longest translation.
    """

    advance: Callable[[int, State], State]
    live: Callable[[Any], Array]
    slots: int
    max_length: int


Schedule = Callable[[Loop, State], Any]  # runs a loop until no sentence is live, and returns the sentences


def plain(loop: Loop, state: State) -> Any:
    """One loop over all sentences, until the last one is done, with room for the longest translation from the start."""
    return run_to(loop, state, loop.max_length).sentences


def run_to(loop: Loop, state: State, positions: int, fewest: int = 0) -> State:
    """Advances up to `positions` steps, while more than `fewest` sentences are live."""

    def goes_on(state: State) -> Array:
        return (loop.live(state.sentences).sum() > fewest) & (state.position < positions)

    grown = state._replace(cache=grow(state.cache, positions, loop.slots))
    return lax.while_loop(goes_on, partial(loop.advance, positions), grown)


class _Finished(NamedTuple):
    origins: Array  # [B, N, 1 + L], the slots that hold a translation's tokens, the start id first
    scores: Array  # [B, N], best first; -inf where there is no translation yet
    lengths: Array  # [B, N], the end token counted


class _Beams(NamedTuple):
    tokens: Array  # [B, K, 1 + L], the token that each slot got at each position; like the cache, they never move
    origins: Array  # [B, K, 1 + L], the slots that hold each live hypothesis's tokens
    log_probs: Array  # [B, K], of live hypotheses; -inf for those that are not, and for all of a sentence that is done
    finished: _Finished
    max_lengths: Array  # [B, 1]


def beam_search(
    step: Step,
    cache: Cache,
    max_lengths: Int[Array, " B"],
    *,
    max_length: int,
    start_id: int,
    end_id: int,
    pad_id: int,
    beam_size: int,
    length_penalty: float,
    length_penalty_form: Literal["wu", "power"] = "wu",
    num_best: int = 1,
    constrain: Constrain | None = None,
    schedule: Schedule = plain,
    top_k: TopK = lax.top_k,
) -> Hypotheses:
    """Beam search with a length penalty (section 6.1; Wu et al. 2016, arXiv 1609.08144, section 7).

    score(Y) = log P(Y | X) / penalty(|Y|),  penalty(L) = ((5 + L) / 6)^alpha  or  L^alpha

    |Y| counts every generated token, the end token too. Each step keeps the K most probable continuations that do not
    end; an ending is counted when it is among the K most probable of all continuations. A hypothesis that reaches its
    sentence's longest length is made to end there, at the end token's own log-probability, whatever `constrain` says.
    A sentence stops exactly when no live hypothesis can reach its `num_best` best any more: log-probabilities only fall
    and the penalty only grows, so log P / penalty(longest length) bounds all that a live hypothesis can become. From
    then on it is frozen, and the loop ends when all are.

    The pad and start ids are never generated, but keep their share of the probability, and so does what `constrain`
    rules out: scores are the model's own.

    With a beam of 1 there is nothing to rank by length: alpha is taken as 0, which makes it greedy search.

    Args:
        step: (cache, token [B, K], position [], origins [B, K, P]) -> (logits [B, K, V] of the next token, cache).
            `position` counts the tokens before `token`; the first token is the start id. Cache entries never move. When
            hypotheses are re-ranked, `origins[:, k, p]` records the slot that holds hypothesis k's entry for position
            p. P is at least position + 1, and the cache has P positions.
        cache: what `step` needs of the sources, and of the tokens so far, of which there are none yet.
        max_lengths: longest translation of each sentence in tokens, the end token counted; 0 for an empty row, which
            gets no translation.
        max_length: the largest of `max_lengths`, L; a sentence's own may not exceed it.
        start_id: the token that every hypothesis starts from; it may be the pad id.
        end_id: the token that ends a hypothesis.
        pad_id: the token behind the end.
        beam_size: hypotheses kept a sentence, K.
        length_penalty: alpha, not negative; 0 is none.
        length_penalty_form: `wu` is the first form of the equation above, `power` the second.
        num_best: translations returned for each sentence, N.
        constrain: what may be generated, and how probable it is taken to be: at most 1.
        schedule: how the steps are run; what it does changes no translation.
        top_k: `lax.top_k`, or what is faster for rows as long as the vocabulary.

    Returns:
        The N best hypotheses of each sentence.
    """
    alpha = length_penalty if beam_size > 1 else 0.0
    max_lengths = jnp.minimum(max_lengths, max_length)[:, None]

    def score(log_probs: Array, lengths: Array) -> Array:
        return log_probs / ((5 + lengths) / 6 if length_penalty_form == "wu" else lengths) ** alpha

    def advance(positions: int, state: State) -> State:
        beams: _Beams = state.sentences
        length, batch = state.position + 1, beams.tokens.shape[0]
        token, origins = beams.tokens[:, :, state.position], beams.origins[:, :, :positions]
        logits, cache = step(state.cache, token, state.position, origins)
        own = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        allowed = own
        if constrain is not None:
            allowed = constrain(own, _follow(beams.tokens, beams.origins), state.position)

        size = own.shape[-1]
        never = np.isin(np.arange(size), (start_id, pad_id, end_id))
        words, word_ids = top_k(jnp.where(never, -jnp.inf, allowed), min(beam_size, size))
        words = beams.log_probs[..., None] + words
        log_probs, chosen = lax.top_k(words.reshape(batch, -1), beam_size)

        last = length >= beams.max_lengths
        endings = beams.log_probs + jnp.where(last, own[..., end_id], allowed[..., end_id])
        everything = jnp.concatenate([log_probs, endings], axis=1)
        better = (everything[:, None] > endings[..., None]).sum(axis=-1)
        endings = jnp.where(last | (better < beam_size), endings, -jnp.inf)
        scores = score(endings, length)
        finished = _best(beams.finished, _Finished(beams.origins, scores, jnp.full_like(scores, length, int)))

        attainable = score(log_probs[:, :1], beams.max_lengths)
        done = last | (attainable <= finished.scores[:, -1:])
        origins = _take(beams.origins, chosen // words.shape[-1])
        beams = beams._replace(
            tokens=beams.tokens.at[:, :, length].set(_take(word_ids.reshape(batch, -1), chosen)),
            origins=origins.at[:, :, length].set(slots),
            log_probs=jnp.where(done, -jnp.inf, log_probs),
            finished=finished,
        )
        return State(length, beams, cache)

    def live(beams: _Beams) -> Array:
        return jnp.any(beams.log_probs > -jnp.inf, axis=1)

    # All hypotheses start from the same token, so only the first may be continued.
    batch, slots = max_lengths.shape[0], jnp.arange(beam_size)
    beams = _Beams(
        tokens=jnp.full((batch, beam_size, 1 + max_length), start_id),
        origins=jnp.broadcast_to(slots[:, None], (batch, beam_size, 1 + max_length)),
        log_probs=jnp.where((slots == 0) & (max_lengths > 0), 0.0, -jnp.inf),
        finished=_Finished(
            origins=jnp.zeros((batch, num_best, 1 + max_length), int),
            scores=jnp.full((batch, num_best), -jnp.inf),
            lengths=jnp.zeros((batch, num_best), int),
        ),
        max_lengths=max_lengths,
    )
    loop = Loop(advance, live, beam_size, max_length)
    beams = schedule(loop, State(jnp.array(0), beams, cache))
    origins, scores, lengths = beams.finished
    lengths, positions = jnp.where(scores > -jnp.inf, lengths, 0), jnp.arange(1, 1 + max_length)
    tokens = _follow(beams.tokens, origins)[:, :, 1:]
    tokens = jnp.where(positions < lengths[..., None], tokens, pad_id)
    return Hypotheses(jnp.where(positions == lengths[..., None], end_id, tokens), scores, lengths)


class _Samples(NamedTuple):
    tokens: Array  # [B, N, 1 + L], the start id first
    log_probs: Array  # [B, N]
    lengths: Array  # [B, N], 0 while the sample goes on
    max_lengths: Array  # [B, 1]
    keys: Array  # [B, N]


def sample(
    step: Step,
    cache: Cache,
    max_lengths: Int[Array, " B"],
    sentences: Int[Array, " B"],
    *,
    max_length: int,
    start_id: int,
    end_id: int,
    pad_id: int,
    num_samples: int,
    seed: int | Int[Array, ""],
    constrain: Constrain | None = None,
    schedule: Schedule = plain,
) -> Hypotheses:
    """Ancestral sampling: y_t ~ p'(. | y_1 .. y_{t-1}, X) until the end token, where p' is p as `constrain` changes it.

    The random numbers of a token are a function of (seed, sentence, sample, position), so that a sample depends neither
    on its batch nor on how many others are drawn.

    Args:
        step: as for `beam_search`.
        cache: as for `beam_search`.
        max_lengths: as for `beam_search`; a sample that is as long is made to end.
        sentences: a number for each sentence.
        max_length: the largest of `max_lengths`, L.
        start_id: the token that every sample starts from; never drawn.
        end_id: the token that ends a sample.
        pad_id: the token behind the end; never drawn.
        num_samples: samples drawn for each sentence, N.
        seed: of the random numbers.
        constrain: what may be drawn, and how probably.
        schedule: as for `beam_search`.

    Returns:
        The samples of each sentence in the order of their numbers. Their scores are log-probabilities under p, the
        model's own, whatever p' they were drawn from.
    """
    batch, max_lengths = max_lengths.shape[0], jnp.minimum(max_lengths, max_length)[:, None]
    slots = jnp.arange(num_samples)
    of_sentence = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), sentences)
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(of_sentence, slots)

    def draw(key: Array, position: Array, log_probs: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(key, position), log_probs)

    def advance(positions: int, state: State) -> State:
        samples: _Samples = state.sentences
        token = samples.tokens[:, :, state.position]
        origins = jnp.broadcast_to(slots[:, None], (*token.shape, positions))
        logits, cache = step(state.cache, token, state.position, origins)
        own = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        allowed = jnp.where(np.isin(np.arange(own.shape[-1]), (start_id, pad_id)), -jnp.inf, own)
        if constrain is not None:
            allowed = constrain(allowed, samples.tokens, state.position)
        length, unfinished = state.position + 1, (samples.lengths == 0) & (samples.max_lengths > 0)
        drawn = jax.vmap(jax.vmap(draw, (0, None, 0)), (0, None, 0))(samples.keys, state.position, allowed)
        # What rules out everything leaves nothing to draw from: the sample ends.
        nothing_left = ~(allowed.max(axis=-1) > -jnp.inf)  # also where it was normalized, which makes it NaN
        ends = (length >= samples.max_lengths) | nothing_left | (drawn == end_id)
        token = jnp.where(ends, end_id, drawn)
        gained = jnp.take_along_axis(own, token[..., None], axis=-1)[..., 0]
        samples = samples._replace(
            tokens=samples.tokens.at[:, :, length].set(jnp.where(unfinished, token, pad_id)),
            log_probs=samples.log_probs + jnp.where(unfinished, gained, 0.0),
            lengths=jnp.where(unfinished & ends, length, samples.lengths),
        )
        return State(length, samples, cache)

    def live(samples: _Samples) -> Array:
        return jnp.any((samples.lengths == 0) & (samples.max_lengths > 0), axis=1)

    samples = _Samples(
        tokens=jnp.full((batch, num_samples, 1 + max_length), pad_id).at[:, :, 0].set(start_id),
        log_probs=jnp.zeros((batch, num_samples)),
        lengths=jnp.zeros((batch, num_samples), int),
        max_lengths=max_lengths,
        keys=keys,
    )
    samples = schedule(Loop(advance, live, num_samples, max_length), State(jnp.array(0), samples, cache))
    log_probs = jnp.where(samples.lengths > 0, samples.log_probs, -jnp.inf)
    return Hypotheses(samples.tokens[:, :, 1:], log_probs, samples.lengths)


Member = tuple[Step, Cache]  # a model's step, and the cache that it starts with


def mean_step(members: Sequence[Member]) -> Member:
    """Several models as one: the next token's probability is the mean of theirs.

    p(y_t | ...) = 1/M sum_m p_m(y_t | ...), as in Sutskever et al. 2014 (arXiv 1409.3215, section 3.6): the arithmetic
    mean, in which no model has a veto, as it would in the geometric one.

    Args:
        members: the `step` of each model, and the cache that it starts with.

    Returns:
        A `step` and a cache for `beam_search` or `sample`.
    """
    steps, caches = zip(*members, strict=True)

    def step(caches: Cache, token: Array, position: Array, origins: Array) -> tuple[Array, Cache]:
        results = [one(cache, token, position, origins) for one, cache in zip(steps, caches, strict=True)]
        log_probs = [jax.nn.log_softmax(logits, axis=-1) for logits, _ in results]
        return log_mean(log_probs), tuple(cache for _, cache in results)

    return step, caches


def log_mean(log_probs: Sequence[Float[Array, "*axes"]]) -> Float[Array, "*axes"]:
    """The logarithm of the mean of probabilities: log(1/M sum_m exp(l_m)); of a single one, itself."""
    if len(log_probs) == 1:
        return log_probs[0]
    return jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - math.log(len(log_probs))


def _best(finished: _Finished, ended: _Finished) -> _Finished:
    """The N best of both; of equals, those that were there before."""
    origins, scores, lengths = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), finished, ended)
    scores, kept = lax.top_k(scores, finished.scores.shape[1])
    return _Finished(_take(origins, kept), scores, _take(lengths, kept))


def _follow(tokens: Array, origins: Array) -> Array:
    """The tokens [B, N, 1 + L] that lie in these slots."""
    return jnp.take_along_axis(tokens, origins, axis=1, mode="promise_in_bounds")


def _take(leaf: Array, index: Array) -> Array:
    """leaf[b, index[b, k]] for every sentence b."""
    index = index.reshape(*index.shape, *(1,) * (leaf.ndim - 2))
    return jnp.take_along_axis(leaf, index, axis=1, mode="promise_in_bounds")

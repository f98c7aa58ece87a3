"""Beam search (section 6.1) and sampling, as pure functions over a `step` callable; a beam of 1 is greedy search.

They know nothing of the model: the cache is an argument and a result of `step`, and what a sentence's hypotheses share
(the encoder's keys and values) is its memory. A sentence's translation does not depend on its batch: every sentence has
its own longest length and its own end, and its own random numbers. Sentences that are done leave the batch: when two
thirds of its rows are, the other third goes on by itself.

Nor do they know what may not be said: `constrain` is any composition of the functions in `ops/logits.py`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

Cache = Any  # a pytree of arrays [B, H, P K, ...]: for each of P positions, what the K hypotheses of a sentence leave
Step = Callable[..., tuple[Array, Cache]]  # (cache, token, position, origins, *memory) -> (logits, cache)
Constrain = Callable[[Array, Array, Array], Array]  # (log_probs [B, K, V], tokens [B, K, L], position []) -> log_probs

FIRST_HORIZON = 32  # positions that a cache begins with, enough for most sentences; it grows fourfold
SHARE = 3  # when no more than a third of the rows is live, these go on by themselves; another loop to compile
FEWEST_ROWS = 4  # that go on by themselves: fewer cost almost as much as these


class Hypotheses(NamedTuple):
    """The N best translations of each sentence, best first.

    tokens: token ids up to the end id, which is always there, then pad ids; at most L.
    scores: log-probability over length penalty; -inf where the search found fewer than N translations.
    lengths: tokens in each, the end id counted; 0 where there is none.
    """

    tokens: Int[Array, "B N L"]
    scores: Float[Array, "B N"]
    lengths: Int[Array, "B N"]


class _State(NamedTuple):
    position: Array  # steps taken
    tokens: Array  # [B, K, 1 + L], the start id first
    origins: Array  # [B, K, 1 + L], the place where each of these tokens was computed
    log_probs: Array  # [B, K], of live hypotheses; -inf for those that are not, and for all of a sentence that is done
    finished: Hypotheses
    cache: Cache


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
    memory: tuple[Any, ...] = (),
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
            `position` counts the tokens before `token`; the first token is the start id. What hypotheses leave in the
            cache stays in its place when they change theirs: hypothesis k goes back at position p to what was computed
            in place `origins[:, k, p]`. P is at least position + 1, and the cache has P positions.
        cache: what `step` needs of the tokens so far, without any position yet: arrays [B, H, 0, ...].
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
        memory: what `step` is given behind its other arguments: pytrees of arrays [B, ...]. Without any, sentences that
            are done stay in the batch, since `step` may have closed over what belongs to its rows.

    Returns:
        The N best hypotheses of each sentence.
    """
    alpha = length_penalty if beam_size > 1 else 0.0
    max_lengths = jnp.minimum(max_lengths, max_length)[:, None]

    def score(log_probs: Array, lengths: Array) -> Array:
        return log_probs / ((5 + lengths) / 6 if length_penalty_form == "wu" else lengths) ** alpha

    def advance(horizon: int, state: _State, sentences: tuple[Any, Array]) -> _State:
        memory, max_lengths = sentences
        length, batch = state.position + 1, max_lengths.shape[0]
        token, origins = state.tokens[:, :, state.position], state.origins[:, :, :horizon]
        logits, cache = step(state.cache, token, state.position, origins, *memory)
        own = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        allowed = own if constrain is None else constrain(own, state.tokens, state.position)

        never = jnp.zeros(own.shape[-1], bool).at[jnp.array([start_id, pad_id, end_id])].set(True)
        words, word_ids = top_k(jnp.where(never, -jnp.inf, allowed), min(beam_size, own.shape[-1]))
        words = state.log_probs[..., None] + words
        log_probs, chosen = lax.top_k(words.reshape(batch, -1), beam_size)

        last = length >= max_lengths
        endings = state.log_probs + jnp.where(last, own[..., end_id], allowed[..., end_id])
        threshold = lax.top_k(jnp.concatenate([log_probs, endings], axis=1), beam_size)[0][:, -1:]
        endings = jnp.where(last | (endings >= threshold), endings, -jnp.inf)
        ended = Hypotheses(
            tokens=state.tokens.at[:, :, length].set(end_id),
            scores=score(endings, length),
            lengths=jnp.where(endings > -jnp.inf, length, 0),
        )
        finished = _best(state.finished, ended)

        attainable = score(log_probs[:, :1], max_lengths)
        done = last | (attainable <= finished.scores[:, -1:])
        parents = chosen // words.shape[-1]
        return _State(
            position=length,
            tokens=_take(state.tokens, parents).at[:, :, length].set(_take(word_ids.reshape(batch, -1), chosen)),
            origins=_take(state.origins, parents).at[:, :, length].set(jnp.arange(beam_size)),
            log_probs=jnp.where(done, -jnp.inf, log_probs),
            finished=finished,
            cache=cache,
        )

    def live(state: _State, sentences: Any) -> Array:
        return jnp.any(state.log_probs > -jnp.inf, axis=1)

    # All hypotheses start from the same token, so only the first may be continued.
    batch = max_lengths.shape[0]
    first = (jnp.arange(beam_size) == 0) & (max_lengths > 0)
    finished = Hypotheses(
        tokens=jnp.full((batch, num_best, 1 + max_length), pad_id),
        scores=jnp.full((batch, num_best), -jnp.inf),
        lengths=jnp.zeros((batch, num_best), int),
    )
    state = _State(
        position=jnp.array(0),
        tokens=jnp.full((batch, beam_size, 1 + max_length), pad_id).at[:, :, 0].set(start_id),
        origins=jnp.broadcast_to(jnp.arange(beam_size)[:, None], (batch, beam_size, 1 + max_length)),
        log_probs=jnp.where(first, 0.0, -jnp.inf),
        finished=finished,
        cache=cache,
    )
    finished = _run(advance, live, state, (memory, max_lengths), max_length).finished
    there = finished.lengths[..., None] > 0
    return finished._replace(tokens=jnp.where(there, finished.tokens, pad_id)[:, :, 1:])


class _Samples(NamedTuple):
    position: Array  # steps taken
    tokens: Array  # [B, N, 1 + L], the start id first
    log_probs: Array  # [B, N]
    lengths: Array  # [B, N], 0 while the sample goes on
    cache: Cache


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
    memory: tuple[Any, ...] = (),
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
        memory: as for `beam_search`.

    Returns:
        The samples of each sentence in the order of their numbers. Their scores are log-probabilities under p, the
        model's own, whatever p' they were drawn from.
    """
    batch, max_lengths = max_lengths.shape[0], jnp.minimum(max_lengths, max_length)[:, None]
    places = jnp.arange(num_samples)
    of_sentence = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), sentences)
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(of_sentence, places)

    def draw(key: Array, position: Array, log_probs: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(key, position), log_probs)

    def advance(horizon: int, state: _Samples, sentences: tuple[Any, Array, Array]) -> _Samples:
        memory, max_lengths, keys = sentences
        token = state.tokens[:, :, state.position]
        origins = jnp.broadcast_to(places[:, None], (*token.shape, horizon))
        logits, cache = step(state.cache, token, state.position, origins, *memory)
        own = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        allowed = own.at[..., jnp.array([start_id, pad_id])].set(-jnp.inf)
        if constrain is not None:
            allowed = constrain(allowed, state.tokens, state.position)
        length, live = state.position + 1, (state.lengths == 0) & (max_lengths > 0)
        drawn = jax.vmap(jax.vmap(draw, (0, None, 0)), (0, None, 0))(keys, state.position, allowed)
        # What rules out everything leaves nothing to draw from: the sample ends.
        nothing_left = ~(allowed.max(axis=-1) > -jnp.inf)  # also where it was normalized, which makes it NaN
        ends = (length >= max_lengths) | nothing_left | (drawn == end_id)
        token = jnp.where(ends, end_id, drawn)
        gained = jnp.take_along_axis(own, token[..., None], axis=-1)[..., 0]
        return _Samples(
            position=length,
            tokens=state.tokens.at[:, :, length].set(jnp.where(live, token, pad_id)),
            log_probs=state.log_probs + jnp.where(live, gained, 0.0),
            lengths=jnp.where(live & ends, length, state.lengths),
            cache=cache,
        )

    state = _Samples(
        position=jnp.array(0),
        tokens=jnp.full((batch, num_samples, 1 + max_length), pad_id).at[:, :, 0].set(start_id),
        log_probs=jnp.zeros((batch, num_samples)),
        lengths=jnp.zeros((batch, num_samples), int),
        cache=cache,
    )

    def live(state: _Samples, sentences: tuple[Any, Array, Array]) -> Array:
        return jnp.any((state.lengths == 0) & (sentences[1] > 0), axis=1)

    state = _run(advance, live, state, (memory, max_lengths, keys), max_length)
    return Hypotheses(state.tokens[:, :, 1:], jnp.where(state.lengths > 0, state.log_probs, -jnp.inf), state.lengths)


Advance = Callable[[int, Any, Any], Any]  # (positions of the cache, state, sentences) -> state
Live = Callable[[Any, Any], Array]  # (state, sentences) -> [B], whether a sentence goes on


def _run(advance: Advance, live: Live, state: Any, sentences: tuple[Any, ...], max_length: int) -> Any:
    """Advances while something lives, over caches that grow: each step costs what the tokens so far do, not what the
    longest translation would. Every size of the cache is a loop of its own, so there are few of them.

    Args:
        advance: one step.
        live: which sentences are not done.
        state: arrays [B, ...], but for `position`.
        sentences: what stays the same: arrays [B, ...], the memory first.
        max_length: steps at the most.
    """
    rows, hypotheses = state.tokens.shape[:2]
    share = rows // SHARE if sentences[0] and isinstance(rows, int) else 0  # `jax.export` may have left the rows open
    fewer = share if share >= FEWEST_ROWS else 0
    horizon = 0
    while horizon < max_length:
        horizon = max(FIRST_HORIZON, 4 * horizon)
        if horizon * 3 // 2 > max_length:
            horizon = max_length
        grown = jax.tree.map(partial(_grow, size=horizon * hypotheses), state.cache)
        run = partial(_run_to, horizon, advance, live)
        state = run(state._replace(cache=grown), sentences, fewer)
        if fewer:
            state = _with_live_rows(fewer, run, live, state, sentences)
    return state


def _run_to(horizon: int, advance: Advance, live: Live, state: Any, sentences: Any, fewer: int = 0) -> Any:
    """Advances up to `horizon`, while more than `fewer` rows are live."""

    def goes_on(state: Any) -> Array:
        return (live(state, sentences).sum() > fewer) & (state.position < horizon)

    return lax.while_loop(goes_on, lambda state: advance(horizon, state, sentences), state)


def _with_live_rows(fewer: int, run: Callable[[Any, Any], Any], live: Live, state: Any, sentences: Any) -> Any:
    """Runs with `fewer` rows alone, if all that are live are among as many."""

    def by_themselves(state: Any) -> Any:
        kept = jnp.argsort(~live(state, sentences))[:fewer]  # stable: the live rows in their order, then others
        chosen, of_chosen = jax.tree.map(lambda leaf: leaf[kept] if leaf.ndim else leaf, (state, sentences))
        chosen = run(chosen, of_chosen)
        return jax.tree.map(lambda leaf, new: leaf.at[kept].set(new) if leaf.ndim else new, state, chosen)

    left = live(state, sentences).sum()
    return lax.cond((left > 0) & (left <= fewer), by_themselves, lambda state: state, state)


def _grow(leaf: Array, size: int) -> Array:
    padding = [(0, 0)] * leaf.ndim
    padding[2] = (0, size - leaf.shape[2])
    return jnp.pad(leaf, padding)


Member = tuple[Step, Cache, tuple[Any, ...]]  # a model's step, the cache that it starts with, and its memory


def mean_step(members: Sequence[Member]) -> Member:
    """Several models as one: the next token's probability is the mean of theirs.

    p(y_t | ...) = 1/M sum_m p_m(y_t | ...), as in Sutskever et al. 2014 (arXiv 1409.3215, section 3.6): the arithmetic
    mean, in which no model has a veto, as it would in the geometric one.

    Args:
        members: the `step` of each model, the cache that it starts with, and its memory.

    Returns:
        A `step`, a cache and a memory for `beam_search` or `sample`.
    """
    steps, caches, memories = zip(*members, strict=True)

    def step(caches: Cache, token: Array, position: Array, origins: Array, *memories: Any) -> tuple[Array, Cache]:
        results = [
            one(cache, token, position, origins, *memory)
            for one, cache, memory in zip(steps, caches, memories, strict=True)
        ]
        log_probs = [jax.nn.log_softmax(logits, axis=-1) for logits, _ in results]
        return log_mean(log_probs), tuple(cache for _, cache in results)

    return step, caches, memories


def log_mean(log_probs: Sequence[Float[Array, "*axes"]]) -> Float[Array, "*axes"]:
    """The logarithm of the mean of probabilities: log(1/M sum_m exp(l_m)); of a single one, itself."""
    if len(log_probs) == 1:
        return log_probs[0]
    return jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - math.log(len(log_probs))


def top_k(x: Float[Array, "*rows V"], k: int) -> tuple[Float[Array, "*rows k"], Int[Array, "*rows k"]]:
    """The k largest of each row, largest first, and their indices: `lax.top_k`, but faster on a CPU for long rows.

    The k largest of a row lie in the k blocks that have the largest maxima, so only these are searched. A block takes
    every (V / 16)th element of a row, which lets the maxima be taken over whole vectors.

    Args:
        x: rows of numbers.
        k: how many of each row; at most V.
    """
    block = 16
    *rows, size = x.shape
    num_blocks = math.ceil(size / block)
    if num_blocks <= k:
        values, indices = lax.top_k(x, k)
        return values, indices
    padding = [(0, 0)] * len(rows) + [(0, num_blocks * block - size)]
    x = jnp.pad(x, padding, constant_values=-jnp.inf).reshape(*rows, block, num_blocks)
    _, blocks = lax.top_k(x.max(axis=-2), k)
    candidates = jnp.take_along_axis(x, blocks[..., None, :], axis=-1).reshape(*rows, block * k)
    values, chosen = lax.top_k(candidates, k)
    return values, chosen // k * num_blocks + jnp.take_along_axis(blocks, chosen % k, axis=-1)


def _best(finished: Hypotheses, ended: Hypotheses) -> Hypotheses:
    """The N best of both; of equals, those that were there before."""
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), finished, ended)
    _, kept = lax.top_k(both.scores, finished.scores.shape[1])
    return jax.tree.map(lambda leaf: _take(leaf, kept), both)


def _take(leaf: Array, index: Array) -> Array:
    """leaf[b, index[b, k]] for every sentence b."""
    return jnp.take_along_axis(leaf, index.reshape(*index.shape, *(1,) * (leaf.ndim - 2)), axis=1)

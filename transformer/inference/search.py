"""Beam search (section 6.1) and sampling, as pure functions over a `step` callable; a beam of 1 is greedy search.

Both run the loop of `inference/generation.py`, and differ in how they choose the next tokens: in `choose`.

What may not be generated is the caller's: `constrain` is any composition of the functions in `ops/logits.py`.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Int

from transformer.inference.ensemble import Cache, Step
from transformer.inference.generation import (
    Beams,
    Choice,
    Constrain,
    Ended,
    Hypotheses,
    Schedule,
    generate,
    plain,
    take_slots,
)

TopK = Callable[[Array, int], Any]  # such as lax.top_k: the k largest of each row, largest first, and their indices


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
        pad_id: the token after the end.
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

    def score(log_probs: Array, lengths: Array) -> Array:
        return log_probs / ((5 + lengths) / 6 if length_penalty_form == "wu" else lengths) ** alpha

    def choose(beams: Beams, own: Array, allowed: Array, length: Array) -> Choice:
        batch, size = own.shape[0], own.shape[-1]
        words = jnp.where(jnp.arange(size) == end_id, -jnp.inf, allowed)
        words, word_ids = top_k(words, min(beam_size, size))
        words = beams.log_probs[..., None] + words
        log_probs, chosen = lax.top_k(words.reshape(batch, -1), beam_size)

        last = length >= beams.max_lengths
        endings = beams.log_probs + jnp.where(last, own[..., end_id], allowed[..., end_id])
        everything = jnp.concatenate([log_probs, endings], axis=1)
        better = (everything[:, None] > endings[..., None]).sum(axis=-1)
        endings = jnp.where(last | (better < beam_size), endings, -jnp.inf)
        scores = score(endings, length)
        ended = _best(beams.ended, Ended(beams.origins, scores, jnp.full_like(scores, length, int)))

        attainable = score(log_probs[:, :1], beams.max_lengths)
        stops = last | (attainable <= ended.scores[:, -1:])
        tokens = take_slots(word_ids.reshape(batch, -1), chosen)
        return Choice(chosen // words.shape[-1], tokens, jnp.where(stops, -jnp.inf, log_probs), ended)

    return generate(
        step,
        cache,
        max_lengths,
        choose,
        slots=beam_size,
        live_slots=1,  # all hypotheses start from the same token, so only the first may be continued
        num_best=num_best,
        max_length=max_length,
        start_id=start_id,
        end_id=end_id,
        pad_id=pad_id,
        constrain=constrain,
        schedule=schedule,
    )


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
        step, cache, max_length, start_id, end_id, pad_id, constrain, schedule: as for `beam_search`.
        max_lengths: as for `beam_search`; a sample that is as long is made to end.
        sentences: a number for each sentence.
        num_samples: samples drawn for each sentence, N. Each has a slot of its own.
        seed: of the random numbers.

    Returns:
        The samples of each sentence in the order of their numbers. Their scores are log-probabilities under p, the
        model's own, whatever p' they were drawn from.
    """
    slots = jnp.arange(num_samples)
    of_sentence = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), sentences)
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(of_sentence, slots)

    def draw(key: Array, position: Array, log_probs: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(key, position), log_probs)

    def choose(samples: Beams, own: Array, allowed: Array, length: Array) -> Choice:
        drawn = jax.vmap(jax.vmap(draw, (0, None, 0)), (0, None, 0))(samples.keys, length - 1, allowed)
        # What rules out everything leaves nothing to draw from: the sample ends.
        nothing_left = ~(allowed.max(axis=-1) > -jnp.inf)  # also where it was normalized, which makes it NaN
        ends = (length >= samples.max_lengths) | nothing_left | (drawn == end_id)
        tokens = jnp.where(ends, end_id, drawn)
        log_probs = samples.log_probs + jnp.take_along_axis(own, tokens[..., None], axis=-1)[..., 0]
        newly = ends & (samples.log_probs > -jnp.inf)
        ended = Ended(
            origins=samples.origins,
            scores=jnp.where(newly, log_probs, samples.ended.scores),
            lengths=jnp.where(newly, length, samples.ended.lengths),
        )
        parents = jnp.broadcast_to(slots, tokens.shape)
        return Choice(parents, tokens, jnp.where(ends, -jnp.inf, log_probs), ended)

    return generate(
        step,
        cache,
        max_lengths,
        choose,
        slots=num_samples,
        live_slots=num_samples,
        num_best=num_samples,
        max_length=max_length,
        start_id=start_id,
        end_id=end_id,
        pad_id=pad_id,
        constrain=constrain,
        schedule=schedule,
        keys=keys,
    )


def _best(ended: Ended, newly: Ended) -> Ended:
    """The N best of both; of equals, those that were there before."""
    origins, scores, lengths = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), ended, newly)
    scores, kept = lax.top_k(scores, ended.scores.shape[1])
    return Ended(take_slots(origins, kept), scores, take_slots(lengths, kept))

"""Beam search (section 6.1) and ancestral sampling, as pure functions.

Both run the loop in `inference/generation.py` and differ only in the function `choose`, which picks the next tokens.
A beam of 1 is greedy search.

The caller decides which tokens may be generated: `constrain` is any composition of the functions in `ops/logits.py`.
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

TopK = Callable[[Array, int], Any]  # like lax.top_k: the k largest values of each row in descending order, and indices


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
    """Searches for translations with a beam and a length penalty (section 6.1).

    score(Y) = log P(Y | X) / penalty(|Y|),  penalty(L) = ((5 + L) / 6)^alpha  or  L^alpha

    The penalty is from Wu et al. 2016 (arXiv 1609.08144, section 7). |Y| counts all generated tokens, including the end
    token. Each step keeps the K most probable continuations that do not end. An ending counts if it is among the K most
    probable of all continuations.

    A hypothesis that reaches the maximum length of its sentence is forced to end there. Its end token then has the
    model's log-probability, whatever `constrain` says.

    The search of a sentence stops as soon as no live hypothesis can still become one of its `num_best` best.
    Log-probabilities only fall and the penalty only grows, so log P / penalty(maximum length) bounds the score that a
    live hypothesis can reach. The loop ends when the search of every sentence has stopped.

    The pad and start ids are never generated. Nothing is renormalized after these or other tokens are ruled out, so
    scores are based on the probabilities of the model.

    With a beam of 1 there is nothing to rank by length. Alpha is then taken as 0, which makes it greedy search.

    Args:
        step: (cache, token [B, K], position [], origins [B, K, P]) -> (next-token logits [B, K, V], cache).
            `position` is the number of tokens before `token`, and the first token is the start id. Cache entries never
            move. When hypotheses are re-ranked, `origins[:, k, p]` records the slot that holds hypothesis k's entry for
            position p. The cache has P positions, and P is at least position + 1.
        cache: What `step` needs to know about the sources. It holds no tokens yet.
        max_lengths: Maximum length of each translation in tokens, including the end token. An empty row has 0 and gets
            no translation.
        max_length: Upper bound on `max_lengths`, L.
        start_id: The token that every hypothesis starts from. It may be the pad id.
        end_id: The token that ends a hypothesis.
        pad_id: The token that fills a row after the end token.
        beam_size: Number of hypotheses per sentence, K.
        length_penalty: Exponent alpha, at least 0. 0 disables the penalty.
        length_penalty_form: `wu` is the first form of the penalty above, `power` the second.
        num_best: Number of translations to return per sentence, N.
        constrain: Changes next-token log-probabilities, -inf for tokens that may not be generated. None of its results
            may exceed 0.
        schedule: Runs the steps. No schedule changes a translation.
        top_k: `lax.top_k`, or a faster function for rows as long as the vocabulary.

    Returns:
        The N best hypotheses of each sentence.
    """
    alpha = length_penalty if beam_size > 1 else 0.0

    def score(log_probs: Array, lengths: Array) -> Array:
        return log_probs / ((5 + lengths) / 6 if length_penalty_form == "wu" else lengths) ** alpha

    def choose(beams: Beams, own: Array, allowed: Array, length: Array) -> Choice:
        batch, size = own.shape[0], own.shape[-1]
        continuations = jnp.where(jnp.arange(size) == end_id, -jnp.inf, allowed)
        continuations, token_ids = top_k(continuations, min(beam_size, size))
        continuations = beams.log_probs[..., None] + continuations
        log_probs, chosen = lax.top_k(continuations.reshape(batch, -1), beam_size)

        last = length >= beams.max_lengths
        endings = beams.log_probs + jnp.where(last, own[..., end_id], allowed[..., end_id])
        everything = jnp.concatenate([log_probs, endings], axis=1)
        better = (everything[:, None] > endings[..., None]).sum(axis=-1)
        endings = jnp.where(last | (better < beam_size), endings, -jnp.inf)
        scores = score(endings, length)
        ended = _best(beams.ended, Ended(beams.origins, scores, jnp.full_like(scores, length, int)))

        attainable = score(log_probs[:, :1], beams.max_lengths)
        stops = last | (attainable <= ended.scores[:, -1:])
        tokens = take_slots(token_ids.reshape(batch, -1), chosen)
        return Choice(chosen // continuations.shape[-1], tokens, jnp.where(stops, -jnp.inf, log_probs), ended)

    return generate(
        step,
        cache,
        max_lengths,
        choose,
        slots=beam_size,
        live_slots=1,  # all hypotheses start from the same token, so continuing more than one would only repeat it
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
    """Draws translations by ancestral sampling.

    y_t ~ p'(. | y_1 .. y_{t-1}, X)  until the end token

    Here p' is the distribution p of the model after `constrain`. The random number of a token is a function of (seed,
    sentence, sample, position). A sample therefore depends neither on its batch nor on the number of other samples.

    Args:
        step: As for `beam_search`, like all arguments that are not listed here.
        cache: As for `beam_search`.
        max_lengths: As for `beam_search`. A sample that reaches this length is forced to end.
        sentences: A number for each sentence, for its random numbers.
        num_samples: Number of samples per sentence, N. Each sample has its own slot.
        seed: Seed of the random numbers.

    Returns:
        The samples of each sentence in the order of their slots, not of their scores. A score is the log-probability
        under p, even if the sample was drawn from another p'.
    """
    slots = jnp.arange(num_samples)
    of_sentence = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), sentences)
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(of_sentence, slots)

    def draw(key: Array, position: Array, log_probs: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(key, position), log_probs)

    def choose(samples: Beams, own: Array, allowed: Array, length: Array) -> Choice:
        drawn = jax.vmap(jax.vmap(draw, (0, None, 0)), (0, None, 0))(samples.keys, length - 1, allowed)
        # If the constraints rule out every token, there is nothing to draw from, and the sample ends.
        nothing_left = ~(allowed.max(axis=-1) > -jnp.inf)  # also true for NaN, which normalizing such a row gives
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
    """The N best hypotheses of both. Of equal scores, those in `ended` come first."""
    origins, scores, lengths = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), ended, newly)
    scores, kept = lax.top_k(scores, ended.scores.shape[1])
    return Ended(take_slots(origins, kept), scores, take_slots(lengths, kept))

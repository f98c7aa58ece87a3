"""Beam search (section 6.1) as one pure function over a `step` callable; a beam of 1 is greedy search.

The search knows nothing of the model: the cache is an argument and a result of `step`, and what a sentence's hypotheses
share (the encoder's keys and values) is closed over by it. A sentence's translation does not depend on its batch:
every sentence has its own longest length and its own end.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

Cache = Any  # a pytree whose leaves are [B, K, ...] for B sentences and K hypotheses
Step = Callable[[Cache, Array, Array], tuple[Array, Cache]]


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
) -> Hypotheses:
    """Beam search with a length penalty (section 6.1; Wu et al. 2016, arXiv 1609.08144, section 7).

    score(Y) = log P(Y | X) / penalty(|Y|),  penalty(L) = ((5 + L) / 6)^alpha  or  L^alpha

    |Y| counts every generated token, the end token too. Each step keeps the K most probable continuations that do not
    end; an ending is counted when it is among the K most probable of all continuations. A hypothesis that reaches its
    sentence's longest length is made to end there, at the end token's own log-probability. A sentence stops exactly
    when no live hypothesis can reach its `num_best` best any more: log-probabilities only fall and the penalty only
    grows, so log P / penalty(longest length) bounds all that a live hypothesis can become. From then on it is frozen,
    and the loop ends when all are.

    The pad and start ids are never generated, but keep their share of the probability: scores are the model's own.

    With a beam of 1 there is nothing to rank by length: alpha is taken as 0, which makes it greedy search.

    Args:
        step: (cache, token [B, K], position []) -> (logits [B, K, V] of the next token, cache). `position` counts the
            tokens before `token`; the first token is the start id.
        cache: what `step` needs of the tokens so far, in any tree of arrays [B, K, ...]; reordered along K.
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

    Returns:
        The N best hypotheses of each sentence.
    """
    alpha = length_penalty if beam_size > 1 else 0.0
    batch, max_lengths = max_lengths.shape[0], jnp.minimum(max_lengths, max_length)[:, None]

    def score(log_probs: Array, lengths: Array) -> Array:
        return log_probs / ((5 + lengths) / 6 if length_penalty_form == "wu" else lengths) ** alpha

    def advance(state: _State) -> _State:
        length = state.position + 1
        logits, cache = step(state.cache, state.tokens[:, :, state.position], state.position)
        logits = logits.astype(jnp.float32)
        log_normalizer = jax.nn.logsumexp(logits, axis=-1)

        never = jnp.zeros(logits.shape[-1], bool).at[jnp.array([start_id, pad_id, end_id])].set(True)
        words, word_ids = top_k(jnp.where(never, -jnp.inf, logits), min(beam_size, logits.shape[-1]))
        words = state.log_probs[..., None] + (words - log_normalizer[..., None])
        log_probs, chosen = lax.top_k(words.reshape(batch, -1), beam_size)
        endings = state.log_probs + (logits[..., end_id] - log_normalizer)

        last = length >= max_lengths
        threshold = lax.top_k(jnp.concatenate([log_probs, endings], axis=1), beam_size)[0][:, -1:]
        endings = jnp.where(last | (endings >= threshold), endings, -jnp.inf)
        ended = Hypotheses(
            tokens=state.tokens.at[:, :, length].set(end_id),
            scores=score(endings, length),
            lengths=jnp.full(endings.shape, length),
        )
        finished = _best(state.finished, ended)

        attainable = score(log_probs[:, :1], max_lengths)
        done = last | (attainable <= finished.scores[:, -1:])
        tokens = state.tokens
        if beam_size > 1:
            parents = chosen // words.shape[-1]
            tokens, cache = jax.tree.map(lambda leaf: _take(leaf, parents), (tokens, cache))
        return _State(
            position=length,
            tokens=tokens.at[:, :, length].set(_take(word_ids.reshape(batch, -1), chosen)),
            log_probs=jnp.where(done, -jnp.inf, log_probs),
            finished=finished,
            cache=cache,
        )

    # All hypotheses start from the same token, so only the first may be continued.
    first = (jnp.arange(beam_size) == 0) & (max_lengths > 0)
    finished = Hypotheses(
        tokens=jnp.full((batch, num_best, 1 + max_length), pad_id),
        scores=jnp.full((batch, num_best), -jnp.inf),
        lengths=jnp.zeros((batch, num_best), int),
    )
    state = _State(
        position=jnp.array(0),
        tokens=jnp.full((batch, beam_size, 1 + max_length), pad_id).at[:, :, 0].set(start_id),
        log_probs=jnp.where(first, 0.0, -jnp.inf),
        finished=finished,
        cache=cache,
    )
    finished = lax.while_loop(lambda state: jnp.any(state.log_probs > -jnp.inf), advance, state).finished
    return finished._replace(tokens=finished.tokens[:, :, 1:])


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

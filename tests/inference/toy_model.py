"""A model of six tokens, all translations of which can be enumerated."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from transformer.inference.search import beam_search

PAD, START, END = 0, 1, 2
WORDS = (3, 4, 5)
V = 6


def markov(seed, sentences=1, spread=1.5):
    """Draws log-probabilities [B, V, V] of a token given the previous one."""
    scores = np.random.default_rng(seed).normal(0, spread, (sentences, V, V))
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def scorer(tables, on_step=None):
    """Makes a `step` without a cache, whose logits have a constant added."""

    def step(cache, token, position, origins):
        if on_step is not None:
            jax.debug.callback(on_step, position)
        return 7.0 + tables[jnp.arange(len(tables))[:, None], token], cache

    return step


@partial(jax.jit, static_argnames=("longest", "beam_size", "alpha", "form", "num_best", "start_id", "on_step"))
def jitted(tables, max_lengths, longest, beam_size, alpha, form, num_best, start_id, on_step):
    return beam_search(
        scorer(tables, on_step),
        (),
        max_lengths,
        max_length=longest,
        start_id=start_id,
        end_id=END,
        pad_id=PAD,
        beam_size=beam_size,
        length_penalty=alpha,
        length_penalty_form=form,
        num_best=num_best,
    )


def search(
    tables,
    max_lengths,
    longest=None,
    beam_size=4,
    alpha=0.6,
    form="wu",
    num_best=1,
    start_id=START,
    on_step=None,
    dtype=jnp.float32,
):
    tables, longest = jnp.asarray(tables, dtype), max(max_lengths) if longest is None else longest
    found = jitted(tables, jnp.array(max_lengths), longest, beam_size, alpha, form, num_best, start_id, on_step)
    return jax.tree.map(np.asarray, found)


def log_probability(table, tokens):
    return sum(table[a, b] for a, b in itertools.pairwise((START, *tokens)))


def penalty(length, alpha, form):
    return ((5 + length) / 6) ** alpha if form == "wu" else length**alpha


def enumerate_best(table, longest, alpha, form):
    """All translations of at most `longest` tokens with their scores, best first."""
    found = []
    for words in range(longest):
        for sentence in itertools.product(WORDS, repeat=words):
            tokens = (*sentence, END)
            found.append((log_probability(table, tokens) / penalty(len(tokens), alpha, form), tokens))
    return sorted(found, reverse=True)

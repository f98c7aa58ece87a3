"""Samples of a toy model for which the probability of every translation is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_model import END, PAD, START, log_probability, markov, scorer, search

from transformer.inference.search import sample
from transformer.ops import logits

pytestmark = pytest.mark.usefixtures("quick_compilation")


def drawn(tables, max_lengths, sentences, longest=None, num_samples=3, seed=0, constrain=None):
    @jax.jit
    def draw(tables, max_lengths, sentences):
        return sample(
            scorer(tables),
            (),
            max_lengths,
            sentences,
            max_length=max(max_lengths_given) if longest is None else longest,
            start_id=START,
            end_id=END,
            pad_id=PAD,
            num_samples=num_samples,
            seed=seed,
            constrain=constrain,
        )

    max_lengths_given = max_lengths
    found = draw(jnp.asarray(tables, jnp.float32), jnp.array(max_lengths), jnp.array(sentences))
    return jax.tree.map(np.asarray, found)


def test_samples_have_the_frequencies_of_the_model():
    table = markov(10)[0]
    table[:, [PAD, START]] = -40.0
    found = drawn(table[None], [3], [0], num_samples=4000)
    counts = {}
    for tokens, length, score in zip(found.tokens[0].tolist(), found.lengths[0], found.scores[0], strict=True):
        tokens = tuple(tokens[:length])
        np.testing.assert_allclose(score, normalized_log_probability(table, tokens), rtol=1e-4)
        counts[tokens] = counts.get(tokens, 0) + 1
    for tokens, count in counts.items():
        if tokens[-2:] != (END,) and len(tokens) < 3:  # samples of three tokens may have been forced to end
            expected = np.exp(normalized_log_probability(table, tokens))
            assert abs(count / 4000 - expected) < 5 * np.sqrt(expected / 4000)


def normalized_log_probability(table, tokens):
    total = np.log(np.exp(table).sum(-1))
    return log_probability(table, tokens) - sum(total[token] for token in (START, *tokens[:-1]))


def test_a_sample_depends_on_seed_sentence_and_number_alone():
    tables, max_lengths = markov(11, sentences=6), [9, 4, 9, 0, 7, 9]
    together = drawn(tables, max_lengths, [3, 8, 5, 6, 0, 2], num_samples=3)
    order = [4, 2, 0]
    alone = drawn(tables[order], [max_lengths[b] for b in order], [0, 5, 3], num_samples=2)
    np.testing.assert_array_equal(alone.tokens, together.tokens[order, :2])
    np.testing.assert_allclose(alone.scores, together.scores[order, :2], rtol=1e-6)
    assert (drawn(tables, max_lengths, [3, 8, 5, 6, 0, 2], seed=1).tokens != together.tokens).any()
    assert (together.tokens[0, 0] != together.tokens[0, 1]).any()
    assert (together.lengths[3] == 0).all()
    greedy = drawn(tables, max_lengths, [0] * 6, constrain=lambda log_probs, *_: logits.keep_top_k(log_probs, 1))
    best = search(tables, max_lengths, beam_size=1)
    np.testing.assert_array_equal(greedy.tokens[:, :1], best.tokens)


@pytest.mark.parametrize("normalize", [logits.temperature, None])
def test_a_sample_ends_where_no_token_is_allowed(normalize):
    """Also if they are normalized as in `inference/decoding.py`, which gives NaN."""

    def constrain(log_probs, *_):
        nothing = jnp.full_like(log_probs, -jnp.inf)
        return nothing if normalize is None else normalize(nothing, 1.0)

    found = drawn(markov(10), [6], [0], constrain=constrain)
    assert found.tokens[0].tolist() == [[END, PAD, PAD, PAD, PAD, PAD]] * 3
    assert found.lengths[0].tolist() == [1] * 3

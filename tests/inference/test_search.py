"""Beam search with a toy model, all translations of which can be enumerated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from toy_model import (
    END,
    PAD,
    START,
    WORDS,
    enumerate_best,
    log_probability,
    markov,
    penalty,
    scorer,
    search,
)

from transformer.inference.cache import Cache
from transformer.inference.cpu import Shrinking
from transformer.inference.generation import plain
from transformer.inference.search import beam_search
from transformer.ops import logits
from transformer.ops.masks import ancestor_mask

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(("alpha", "form"), [(0.0, "wu"), (0.6, "wu"), (2.0, "wu"), (0.6, "power"), (1.0, "power")])
def test_wide_beam_finds_the_best_of_all_translations(alpha, form):
    tables, max_lengths = markov(1, sentences=6), [5, 4, 3, 5, 1, 2]
    found = search(tables, max_lengths, beam_size=128, alpha=alpha, form=form, num_best=5)
    for b, longest in enumerate(max_lengths):
        best = enumerate_best(tables[b], longest, alpha, form)[:5]
        for n, (score, tokens) in enumerate(best):
            np.testing.assert_allclose(found.scores[b, n], score, rtol=1e-5)
            assert tuple(found.tokens[b, n].tolist()) == tokens + (PAD,) * (5 - len(tokens))
            assert found.lengths[b, n] == len(tokens)
        assert (found.scores[b, len(best) :] == -np.inf).all()
        assert (found.lengths[b, len(best) :] == 0).all()
        assert (found.tokens[b, len(best) :] == PAD).all()


@pytest.mark.parametrize(("alpha", "num_best"), [(0.0, 1), (0.6, 1), (0.6, 3)])
def test_stops_at_the_first_step_after_which_nothing_better_can_come(alpha, num_best):
    longest, steps, stops = 6, [], set()
    for seed in range(12):
        table = markov(seed, spread=2.5)[0]
        everything = enumerate_best(table, longest, alpha, "wu")
        expected = 1
        while True:
            finished = [score for score, tokens in everything if len(tokens) <= expected]
            live = max(log_probability(table, words) for words in itertools.product(WORDS, repeat=expected))
            certain = len(finished) >= num_best and finished[num_best - 1] >= live / penalty(longest, alpha, "wu")
            if certain or expected == longest:
                break
            expected += 1
        steps.clear()
        found = search(table[None], [longest], beam_size=400, alpha=alpha, num_best=num_best, on_step=steps.append)
        jax.effects_barrier()
        assert len(steps) == expected
        np.testing.assert_allclose(found.scores[0], [score for score, _ in everything[:num_best]], rtol=1e-5)
        stops.add(expected)
    assert len(stops) > 1
    assert min(stops) < longest


def test_beam_of_one_is_greedy_search():
    tables = markov(3, sentences=20)
    found = search(tables, [9] * 20, beam_size=1, alpha=0.6)
    for b, table in enumerate(tables):
        tokens = [START]
        while tokens[-1] != END:
            best = max((END, *WORDS), key=lambda token: table[tokens[-1], token])
            tokens.append(best if len(tokens) < 9 else END)
        assert found.tokens[b, 0, : len(tokens) - 1].tolist() == tokens[1:]
        np.testing.assert_allclose(found.scores[b, 0], log_probability(table, tokens[1:]), rtol=1e-5)
    assert len(set(found.lengths[:, 0].tolist())) > 3


def test_score_is_the_log_probability_of_the_tokens_over_the_penalty():
    """Also with a narrow beam, in which hypotheses often move between slots."""
    tables = markov(4, sentences=10)
    found = search(tables, [12] * 10, beam_size=3, alpha=1.5, num_best=3)
    for b, n in itertools.product(range(10), range(3)):
        tokens = found.tokens[b, n, : int(found.lengths[b, n])].tolist()
        assert tokens[-1] == END
        assert not set(tokens[:-1]) & {PAD, START, END}
        score = log_probability(tables[b], tokens) / penalty(len(tokens), 1.5, "wu")
        np.testing.assert_allclose(found.scores[b, n], score, rtol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()


@pytest.mark.parametrize(("longest", "schedule"), [(10, plain), (130, Shrinking((32, 100), 0))])
def test_hypotheses_keep_their_own_past(longest, schedule):
    """The scorer allows each token once, and reads earlier ones from a growing cache."""
    preferences = jnp.array([-9, -9, -9, *np.random.default_rng(0).permutation(longest + 1) / 10])

    def step(cache, token, position, origins):
        hypotheses = origins.shape[1]
        past = lax.dynamic_update_slice_in_dim(cache.past, token[:, None, :, None], position * hypotheses, axis=2)
        own = ancestor_mask(origins, position)[:, 0]
        used = (jax.nn.one_hot(past[..., 0], len(preferences)) * own[..., None]).sum(axis=2)
        return jnp.where(used > 0, -30.0, preferences), cache._replace(past=past)

    found = beam_search(
        step,
        Cache(jnp.zeros((1, 1, 0, 1), int), (), ()),
        jnp.array([longest]),
        schedule=schedule,
        max_length=longest,
        beam_size=4,
        length_penalty=0.0,
        num_best=4,
        start_id=START,
        end_id=END,
        pad_id=PAD,
    )
    for n in range(4):
        assert len(set(found.tokens[0, n].tolist())) == longest
    assert len({tuple(row) for row in found.tokens[0].tolist()}) == 4


def test_a_translation_does_not_depend_on_its_batch():
    tables, max_lengths = markov(5, sentences=8, spread=2.0), [3, 9, 5, 12, 0, 7, 2, 12]
    together = search(tables, max_lengths, num_best=2)
    for b in range(8):
        alone = search(tables[b : b + 1], max_lengths[b : b + 1], longest=12, num_best=2)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, b=b: x[b : b + 1], together), alone)
    narrower = search(tables[:1], max_lengths[:1], num_best=2)
    np.testing.assert_array_equal(together.tokens[:1, :, :3], narrower.tokens)
    np.testing.assert_array_equal(together.scores[:1], narrower.scores)
    assert (together.scores[4] == -np.inf).all()


@pytest.mark.parametrize("horizons", [(), (4,), (2, 4, 8)], ids=str)
@pytest.mark.parametrize("few", [0, 6])
def test_every_schedule_finds_the_same(horizons, few):
    """Caches grow, and batches continue with the unfinished sentences alone."""
    tables, max_lengths = markov(13, sentences=20, spread=2.0), [2, 14, 3, 9, 2] * 4
    seen = []

    def step(cache, token, position, origins):
        tables = cache.source[:, 0]
        jax.debug.callback(
            lambda *now: seen.append(tuple(map(int, now))), len(tables), cache.past.shape[2] // 4, position
        )
        return tables[jnp.arange(len(tables))[:, None], token], cache

    @jax.jit
    def scheduled(tables, max_lengths):
        ids = {"start_id": START, "end_id": END, "pad_id": PAD}
        options = {"beam_size": 4, "length_penalty": 0.6, "num_best": 2, "schedule": Shrinking(horizons, few)}
        cache = Cache(jnp.zeros((20, 1, 0, 1)), tables[:, None], ())
        return beam_search(step, cache, max_lengths, max_length=14, **ids, **options)

    found = scheduled(jnp.asarray(tables, jnp.float32), jnp.array(max_lengths))
    jax.effects_barrier()
    expected = search(tables, max_lengths, num_best=2)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    rows, positions, steps = zip(*seen, strict=True)
    assert list(positions) == sorted(positions)
    assert set(positions) <= {*horizons, 14}
    assert all(step < size for step, size in zip(steps, positions, strict=True))
    assert (few in rows) == bool(few)
    assert set(rows) <= {20, few}


def test_longest_hypothesis_is_forced_to_end():
    table = markov(6)
    table[:, :, END] = -20.0
    found = search(table, [4], num_best=4)
    tokens = found.tokens[0, 0].tolist()
    assert tokens[-1] == END
    assert set(tokens[:-1]) <= set(WORDS)
    total = np.log(np.exp(table[0]).sum(-1))  # the table's rows no longer sum to 1
    score = (log_probability(table[0], tokens) - sum(total[[START, *tokens[:-1]]])) / penalty(4, 0.6, "wu")
    np.testing.assert_allclose(found.scores[0, 0], score, rtol=1e-5)


@pytest.mark.parametrize("start_id", [START, PAD])
def test_start_and_pad_are_never_generated(start_id):
    """Even if the model finds them most probable. Marian models start from the pad id."""
    table = markov(7)
    table[:, :, [PAD, start_id]] = -0.01
    found = search(table, [6], start_id=start_id, num_best=4)
    for tokens, length in zip(found.tokens[0].tolist(), found.lengths[0].tolist(), strict=True):
        assert length > 0
        assert not set(tokens[:length]) & {PAD, start_id}


def test_equal_without_jit():
    found = search(markov(8), [5])
    with jax.disable_jit():
        direct = search(markov(8), [5])
    np.testing.assert_array_equal(direct.tokens, found.tokens)
    np.testing.assert_allclose(direct.scores, found.scores, rtol=1e-6)


def test_scores_of_bfloat16_logits_are_float32():
    tables = jnp.asarray(markov(9, sentences=20) + 7, jnp.bfloat16) - 7  # exact in both types
    exact, found = search(tables, [8] * 20), search(tables, [8] * 20, dtype=jnp.bfloat16)
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.tokens, exact.tokens)
    np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-6)


def test_constraints_bound_the_search_and_leave_the_scores_the_models_own():
    def constrain(log_probs, tokens, position):
        log_probs = logits.forbid(log_probs, (WORDS[1],))
        log_probs = logits.block_repeated_ngrams(log_probs, tokens, position, 2)
        return logits.require_length(log_probs, position, 3, END)

    tables, allowed = markov(12, sentences=3), []
    for table in tables:
        allowed.append([])
        for score, tokens in enumerate_best(table, 5, 0.6, "wu"):
            pairs = list(itertools.pairwise(tokens))
            if WORDS[1] not in tokens and len(tokens) >= 3 and len(set(pairs)) == len(pairs):
                allowed[-1].append((score, tokens))
    found = beam_search(
        scorer(jnp.asarray(tables, jnp.float32)),
        (),
        jnp.array([5, 5, 5]),
        max_length=5,
        start_id=START,
        end_id=END,
        pad_id=PAD,
        beam_size=64,
        length_penalty=0.6,
        num_best=3,
        constrain=constrain,
    )
    for b, best in enumerate(allowed):
        np.testing.assert_allclose(found.scores[b], [score for score, _ in best[:3]], rtol=1e-5)
        assert found.tokens[b, 0, : len(best[0][1])].tolist() == list(best[0][1])

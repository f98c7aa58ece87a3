"""Each function against plain NumPy loops over rows and tokens."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops import logits as ops

V, L = 11, 9


@pytest.fixture(scope="module")
def log_probs():
    scores = np.random.default_rng(0).normal(0, 2, (3, 4, V))
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(3, 6, (3, 4, L))  # few different ones, so that n-grams repeat


def normalize(log_probs):
    with np.errstate(divide="ignore"):
        probs = np.exp(log_probs)
        return np.log(probs / probs.sum(-1, keepdims=True))


def rows(function, log_probs, *others):
    """`function` for each row by itself."""
    found = np.empty_like(log_probs)
    for index in np.ndindex(log_probs.shape[:-1]):
        found[index] = function(log_probs[index].copy(), *(other[index] for other in others))
    return found


@pytest.mark.parametrize("value", [0.3, 1.0, 2.5])
def test_temperature(log_probs, value, assert_close):
    assert_close(jax.jit(partial(ops.temperature, value=value))(log_probs), normalize(log_probs / value), "float32")


def top_k(row, k):
    row[np.argsort(-row)[k:]] = -np.inf
    return normalize(row)


@pytest.mark.parametrize("k", [1, 3, V, 50])
def test_keep_top_k(log_probs, k):
    found = jax.jit(partial(ops.keep_top_k, k=k))(log_probs)
    np.testing.assert_allclose(found, rows(partial(top_k, k=k), log_probs), rtol=1e-5)


def top_p(row, p):
    total = 0.0
    for token in np.argsort(-row):
        kept, total = total < p, total + np.exp(row[token])
        if not kept:
            row[token] = -np.inf
    return normalize(row)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9])
def test_keep_top_p(log_probs, p):
    found = jax.jit(partial(ops.keep_top_p, p=p))(log_probs)
    np.testing.assert_allclose(found, rows(partial(top_p, p=p), log_probs), rtol=1e-5)
    assert np.isneginf(found).any()
    np.testing.assert_allclose(ops.keep_top_p(jnp.asarray(log_probs), 1.0), log_probs, rtol=1e-4)


def test_repetition_penalty(log_probs, tokens):
    def penalize(position, row, so_far):
        for token in {*so_far[1 : position + 1]}:
            row[token] *= 1.7
        return row

    program = jax.jit(partial(ops.repetition_penalty, penalty=1.7))
    for position in (0, 1, 5, L - 1):
        expected = rows(partial(penalize, position), log_probs, tokens)
        np.testing.assert_allclose(program(log_probs, tokens, position), expected, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_block_repeated_ngrams(log_probs, tokens, n):
    def block(position, row, so_far):
        said = so_far[1 : position + 1].tolist()
        ngrams = {tuple(said[start : start + n]) for start in range(len(said) - n + 1)}
        for token in range(V):
            if (*(said[-(n - 1) :] if n > 1 else []), token) in ngrams:
                row[token] = -np.inf
        return row

    program = jax.jit(partial(ops.block_repeated_ngrams, n=n))
    for position in (0, 1, 2, 5, L - 1):
        expected = rows(partial(block, position), log_probs, tokens)
        np.testing.assert_allclose(program(log_probs, tokens, position), expected, rtol=1e-5)
        assert np.isneginf(expected).any() or position < L - 1


def test_constraints_leave_the_rest_as_it_is(log_probs):
    given = jnp.asarray(log_probs)
    found = np.asarray(jax.jit(partial(ops.forbid, token_ids=(2, 7)))(given))
    assert np.isneginf(found[..., [2, 7]]).all()
    np.testing.assert_array_equal(np.delete(found, [2, 7], -1), np.delete(given, [2, 7], -1))
    assert ops.forbid(given, ()) is given
    for position, expected in ((0, True), (3, True), (4, False)):
        found = np.asarray(jax.jit(partial(ops.require_length, minimum=5, end_id=2))(given, position))
        assert np.isneginf(found[..., 2]).all() == expected
        np.testing.assert_array_equal(np.delete(found, 2, -1), np.delete(given, 2, -1))
    for position, token in enumerate((4, 9)):
        found = np.asarray(jax.jit(partial(ops.force_prefix, prefix=(4, 9)))(given, position))
        assert np.isneginf(np.delete(found, token, -1)).all()
        np.testing.assert_array_equal(found[..., token], given[..., token])
    np.testing.assert_array_equal(ops.force_prefix(given, 2, (4, 9)), given)
    assert ops.force_prefix(given, 0, ()) is given


def test_they_compose_in_bfloat16(log_probs, tokens):
    @jax.jit
    def both(log_probs):
        log_probs = ops.block_repeated_ngrams(log_probs, jnp.asarray(tokens), 5, 1)
        return ops.keep_top_k(ops.temperature(log_probs, 0.5), 2)

    found = both(jnp.asarray(log_probs, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    assert (np.isfinite(np.asarray(found, np.float32)).sum(-1) == 2).all()

import math
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops.dropout import dropout, dropout_key

ROWS, POSITIONS, FEATURES = 32, 16, 256
COUNT = ROWS * POSITIONS * FEATURES
SIGMAS = 5  # the tests are deterministic; by chance one in two million would fail


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def draw(rate, seed, site, axes, step, rows):
    return dropout(jnp.ones((len(rows), *axes)), rate, dropout_key(seed, step, rows), site) > 0


def kept(rate=0.5, *, seed=0, step=0, site=0, rows=None, shape=(ROWS, POSITIONS, FEATURES)):
    rows = np.arange(shape[0]) if rows is None else np.asarray(rows)
    return np.asarray(draw(rate, seed, site, shape[1:], step, rows))


def sixteenths(**where):
    """The top four bits of each element's word, read off the masks of fifteen rates, which are nested."""
    masks = [kept(k / 16, **where) for k in range(1, 16)]
    for low, high in pairwise(masks):
        assert not (high & ~low).any()
    return np.sum(masks, axis=0)


def pairs(first, second):
    """Two views of the masks whose elements should know nothing of each other."""
    whole, after, before = slice(None), slice(1, None), slice(None, -1)
    return {
        "features": (first[:, :, after], first[:, :, before]),
        "features two apart": (first[:, :, 2:], first[:, :, :-2]),
        "positions": (first[:, after], first[:, before]),
        "rows": (first[after], first[before]),
        "diagonals": (first[after, after, after], first[before, before, before]),
        "streams": (first[whole], second[whole]),
    }


OTHERS = [{"seed": 1}, {"step": 1}, {"site": 1}, {"seed": 2**31}, {"step": 100_000}, {"site": 77}]


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.3, 0.5, 0.9])
def test_share_of_zeros(rate):
    share = 1 - kept(rate).mean()
    assert abs(share - rate) < SIGMAS * math.sqrt(rate * (1 - rate) / COUNT)
    by_row = 1 - kept(rate).mean(axis=(1, 2))
    sigma = math.sqrt(rate * (1 - rate) / (POSITIONS * FEATURES))
    assert np.abs(by_row - rate).max() < SIGMAS * sigma
    # The rows' shares scatter as independent draws do: no more, and no less.
    scatter = np.square((by_row - rate) / sigma).sum()
    assert abs(scatter - ROWS) < SIGMAS * math.sqrt(2 * ROWS)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_mean_and_scale_are_kept(rate, dtype):
    x = jnp.full((ROWS, POSITIONS, FEATURES), 3.0, dtype)
    y = np.asarray(jax.jit(lambda x: dropout(x, rate, dropout_key(0, 0, jnp.arange(ROWS)), 0))(x), np.float64)
    assert len(np.unique(y)) == 2
    assert y.max() == pytest.approx(3 / (1 - rate), rel=1e-6 if dtype == "float32" else 2**-9)
    sigma = 3 * math.sqrt(rate / (1 - rate) / COUNT)
    assert abs(y.mean() - 3) < SIGMAS * sigma + (0.006 if dtype == "bfloat16" else 1e-5)


def test_rate_zero_returns_the_very_input():
    x = jnp.ones((2, 3))
    assert dropout(x, 0.0, dropout_key(0, 0, jnp.arange(2)), 0) is x


@pytest.mark.parametrize("other", OTHERS, ids=str)
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_neighbours_are_uncorrelated(rate, other):
    for name, (a, b) in pairs(kept(rate), kept(rate, **other)).items():
        correlation = np.mean((a - (1 - rate)) * (b - (1 - rate))) / (rate * (1 - rate))
        assert abs(correlation) < SIGMAS / math.sqrt(a.size), name


def test_rectangles_of_rows_and_features_are_uncorrelated():
    """A hash that is linear in row and feature passes every test of pairs and fails this one."""
    signs = np.where(kept(0.5, shape=(64, 4, 256)), 1, -1)[:, 0]
    rows = signs[:-1] * signs[1:]
    for distance in (1, 2, 7, 128):
        product = rows[:, distance:] * rows[:, :-distance]
        assert abs(product.mean()) < SIGMAS / math.sqrt(product.size)


@pytest.mark.parametrize("other", OTHERS[:3], ids=str)
def test_words_are_uniform_alone_and_in_pairs(other):
    first, second = sixteenths(), sixteenths(**other)
    for cells, name in [(first, "alone"), *((16 * a + b, name) for name, (a, b) in pairs(first, second).items())]:
        count = 16 if name == "alone" else 256
        observed = np.bincount(cells.ravel(), minlength=count)
        expected = cells.size / count
        chi_square = np.sum((observed - expected) ** 2 / expected)
        assert abs(chi_square - (count - 1)) < SIGMAS * math.sqrt(2 * (count - 1)), name


def test_every_part_of_the_key_matters():
    masks = [kept(), *(kept(**other) for other in OTHERS)]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert 0.45 < (first == second).mean() < 0.55


def test_a_row_keeps_its_mask_however_the_batch_is_split_or_ordered():
    whole = kept(0.3)
    order = np.random.default_rng(0).permutation(ROWS)
    np.testing.assert_array_equal(kept(0.3, rows=order), whole[order])
    for size in (12, 16):
        parts = [kept(0.3, rows=np.arange(start, min(start + size, ROWS))) for start in range(0, ROWS, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_longer_padding_changes_no_mask():
    short, long = kept(0.3, shape=(4, 5, 8)), kept(0.3, shape=(4, 9, 8))
    np.testing.assert_array_equal(long[:, :5], short)
    weights, longer = kept(0.3, shape=(4, 2, 5, 7)), kept(0.3, shape=(4, 2, 6, 9))
    np.testing.assert_array_equal(longer[:, :, :5, :7], weights)


@pytest.mark.parametrize("shape", [(32,), (3, 15), (3, 5, 4), (3, 2, 5, 7)])
def test_any_number_of_axes(shape):
    mask = kept(0.5, shape=shape)
    assert mask.shape == shape
    assert 0 < mask.mean() < 1


def test_eager_jit_and_vmap_agree():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3, 5)), jnp.float32)
    rows = jnp.arange(8).reshape(2, 4)

    def apply(x, step, rows):
        return dropout(x, 0.4, dropout_key(7, step, rows), 3)

    eager = jnp.stack([apply(x[i], 11, rows[i]) for i in range(2)])
    mapped = jax.jit(jax.vmap(apply, in_axes=(0, None, 0)))(x, jnp.int32(11), rows)
    np.testing.assert_array_equal(mapped, eager)
    single = jax.jit(lambda x: apply(x, 11, rows.reshape(8)))(x.reshape(8, 3, 5))
    np.testing.assert_array_equal(single.reshape(x.shape), eager)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_gradient_has_the_mask_of_the_value(rate, dtype):
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=(4, 6, 8)), dtype) for _ in range(2))
    key = dropout_key(3, 5, jnp.arange(4))
    value, pull = jax.vjp(lambda x: dropout(x, rate, key, 1), x)
    mask = kept(rate, seed=3, step=5, site=1, shape=(4, 6, 8))
    for given, result in ((x, value), (g, pull(g)[0]), (g, jax.jit(pull)(g)[0])):
        exact = jnp.where(mask, given.astype(jnp.float32) * (1 / (1 - rate)), 0).astype(dtype)
        np.testing.assert_array_equal(np.asarray(result, np.float32), np.asarray(exact, np.float32))


def test_dropped_elements_hide_even_what_is_not_finite():
    y = dropout(jnp.full((8, 64), jnp.nan), 0.5, dropout_key(0, 0, jnp.arange(8)), 0)
    np.testing.assert_array_equal(jnp.isnan(y), kept(shape=(8, 64)))


def test_the_backward_pass_keeps_the_key_and_no_mask():
    x = jnp.ones((8, 16, 32))
    key = dropout_key(0, 0, jnp.arange(8))
    pull = jax.vjp(lambda x, key: dropout(x, 0.1, key, 0), x, key)[1]
    saved = sum(np.size(residual) for residual in jax.tree.leaves(pull))
    assert saved <= 2 * (1 + 8)  # stream and rows
    control = jax.vjp(lambda x: jnp.where(x > 0, jnp.sin(x), 0), x)[1]
    assert sum(np.size(residual) for residual in jax.tree.leaves(control)) >= x.size


def test_the_gradient_passes_through_rematerialization():
    x = jnp.ones((4, 16))
    key = dropout_key(0, 0, jnp.arange(4))

    def layers(x):
        for site in range(3):
            x = jax.checkpoint(lambda x, site=site: dropout(x, 0.2, key, site))(x)
        return x

    expected = np.prod([kept(0.2, site=site, shape=(4, 16)) / 0.8 for site in range(3)], axis=0)
    np.testing.assert_allclose(jax.grad(lambda x: layers(x).sum())(x), expected, rtol=1e-6)

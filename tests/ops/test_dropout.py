import math
from functools import cache, partial
from itertools import combinations, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops.dropout import dropout, dropout_key, fold_in

ROWS, POSITIONS, FEATURES = 32, 16, 256
COUNT = ROWS * POSITIONS * FEATURES
SIGMAS = 5  # the tests are deterministic; by chance one in two million would fail


def masked(rate, seed, site, axes, step, rows, layer):
    key = dropout_key(seed, step, rows)
    return dropout(jnp.ones((len(rows), *axes)), rate, key if layer is None else fold_in(key, layer), site) > 0


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def draw(rates, seed, site, axes, step, rows, layer):
    return [masked(rate, seed, site, axes, step, rows, layer) for rate in rates]


def kept_at(rates, *, seed=0, step=0, site=0, layer=None, rows=None, shape=(ROWS, POSITIONS, FEATURES)):
    rows = np.arange(shape[0]) if rows is None else np.asarray(rows)
    return [np.asarray(mask) for mask in draw(rates, seed, site, shape[1:], step, rows, layer)]


def kept(rate=0.5, **where):
    return kept_at((rate,), **where)[0]


@cache
def sixteenths(**where):
    """The top four bits of each element's word, read off the masks of fifteen rates, which are nested."""
    masks = kept_at(tuple(k / 16 for k in range(1, 16)), **where)
    for low, high in pairwise(masks):
        assert not (high & ~low).any()
    return np.sum(masks, axis=0)


def assert_uniform(cells, count):
    """A chi-square test that each number below `count` is as frequent as any other."""
    expected = cells.size / count
    chi_square = np.sum((np.bincount(cells.ravel(), minlength=count) - expected) ** 2 / expected)
    assert abs(chi_square - (count - 1)) < SIGMAS * math.sqrt(2 * (count - 1))


# What has masks of its own; each differs from seed 0, step 0, site 0 outside the layers.
OTHERS = [
    {"seed": 1},
    {"step": 1},
    {"site": 1},
    {"layer": 0},
    {"layer": 1},
    {"seed": 2**31},
    {"step": 100_000},
    {"site": 77},
]


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


def test_words_are_uniform_alone_and_beside_their_neighbours():
    words = sixteenths()
    assert_uniform(words, 16)
    assert_uniform(16 * words[:, :, 1:] + words[:, :, :-1], 256)
    assert_uniform(16 * words[1:] + words[:-1], 256)


@pytest.mark.parametrize("other", [{"step": 1}, {"layer": 1}], ids=str)
def test_words_of_two_streams_are_independent(other):
    assert_uniform(16 * sixteenths() + sixteenths(**other), 256)


def test_rectangles_of_rows_and_features_are_uncorrelated():
    """A hash that is linear in row and feature passes every test of pairs and fails this one."""
    signs = np.where(kept(0.5, shape=(64, 4, 256)), 1, -1)[:, 0]
    rows = signs[:-1] * signs[1:]
    for distance in (1, 2, 7, 128):
        product = rows[:, distance:] * rows[:, :-distance]
        assert abs(product.mean()) < SIGMAS / math.sqrt(product.size)


def test_every_part_of_the_key_matters():
    masks = [kept(), *(kept(**other) for other in OTHERS)]
    for first, second in combinations(masks, 2):
        assert 0.45 < (first == second).mean() < 0.55


def test_layers_have_masks_of_their_own_whether_their_number_is_traced_or_not():
    """As in a scanned stack, whose layers share their sites."""
    key, layers, x = dropout_key(0, 0, jnp.arange(ROWS)), 12, jnp.ones((ROWS, FEATURES))

    def of_layer(layer):
        return dropout(x, 0.5, fold_in(key, layer), 3)

    untraced = [np.asarray(of_layer(layer)) for layer in range(layers)]
    scanned = jax.jit(lambda: jax.lax.scan(lambda _, layer: (None, of_layer(layer)), None, jnp.arange(layers))[1])()
    np.testing.assert_array_equal(scanned, untraced)
    np.testing.assert_array_equal(jax.vmap(of_layer)(jnp.arange(layers)), untraced)
    for first, second in combinations([*untraced, np.asarray(dropout(x, 0.5, key, 3))], 2):
        assert 0.45 < (first == second).mean() < 0.55
    assert fold_in(key, 5).row is key.row  # the rest of the key is the step's


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


# What follows holds for each implementation: they share the masks, not the arithmetic.


def test_value_and_gradient_are_those_of_the_mask(ops, dtype):
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=(4, 6, 8)), dtype) for _ in range(2))
    key = dropout_key(3, 5, jnp.arange(4))

    @jax.jit
    def value_and_gradient(x, g):
        y, pull = jax.vjp(lambda x: ops.dropout(x, 0.3, key, 1), x)
        return y, *pull(g)

    mask = kept(0.3, seed=3, step=5, site=1, shape=(4, 6, 8))
    alone = jax.jit(lambda x: ops.dropout(x, 0.3, key, 1))(x)  # without a gradient: another path
    for given, result in zip((x, g, x), (*value_and_gradient(x, g), alone), strict=True):
        exact = np.where(mask, np.asarray(given, np.float64) / 0.7, 0)
        assert result.dtype == dtype
        rounding = 2.0**-8 if dtype == "bfloat16" else 2.0**-22
        np.testing.assert_allclose(np.asarray(result, np.float64), exact, rtol=rounding)


def test_rate_zero_returns_the_very_input(ops):
    x = jnp.ones((2, 3))
    assert ops.dropout(x, 0.0, dropout_key(0, 0, jnp.arange(2)), 0) is x


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_rate_may_be_traced(ops, rate, dtype, assert_matches):
    """Its mask is that of the same rate as a Python number. Its gradient is that of the scale 1 / (1 - rate)."""
    key, shape = dropout_key(3, 5, jnp.arange(4)), (4, 6, 8)
    mask = kept(rate, seed=3, step=5, site=1, shape=shape)
    arrays = [np.random.default_rng(0).normal(size=shape), np.array(rate)]

    def reference(x, rate):
        return np.where(mask, x / (1 - rate), 0)

    assert_matches(lambda x, rate: ops.dropout(x, rate, key, 1), reference, arrays, dtype, activations=1)


def test_eager_jit_and_vmap_agree(ops):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3, 5)), jnp.float32)
    rows = jnp.arange(8).reshape(2, 4)

    def apply(x, step, rows):
        return ops.dropout(x, 0.4, dropout_key(7, step, rows), 3)

    eager = jnp.stack([apply(x[i], 11, rows[i]) for i in range(2)])
    mapped = jax.jit(jax.vmap(apply, in_axes=(0, None, 0)))(x, jnp.int32(11), rows)
    np.testing.assert_array_equal(mapped, eager)
    single = jax.jit(lambda x: apply(x, 11, rows.reshape(8)))(x.reshape(8, 3, 5))
    np.testing.assert_array_equal(single.reshape(x.shape), eager)


def test_dropped_elements_hide_even_what_is_not_finite(ops):
    y = ops.dropout(jnp.full((8, 64), jnp.nan), 0.5, dropout_key(0, 0, jnp.arange(8)), 0)
    np.testing.assert_array_equal(jnp.isnan(y), kept(shape=(8, 64)))


def test_the_backward_pass_keeps_the_key_and_no_mask(written_out):
    x = jnp.ones((8, 16, 32))
    key = dropout_key(0, 0, jnp.arange(8))
    pull = jax.vjp(lambda x, key: written_out.dropout(x, 0.1, key, 0), x, key)[1]
    saved = sum(np.size(residual) for residual in jax.tree.leaves(pull))
    assert saved <= 2 * (1 + 8)  # stream and rows
    control = jax.vjp(lambda x, key: dropout(x, 0.1, key, 0), x, key)[1]
    assert sum(np.size(residual) for residual in jax.tree.leaves(control)) >= x.size


def test_the_gradient_passes_through_rematerialization(ops):
    x = jnp.ones((4, 16))
    key = dropout_key(0, 0, jnp.arange(4))

    def layers(x):
        for site in range(3):
            x = jax.checkpoint(lambda x, site=site: ops.dropout(x, 0.2, key, site))(x)
        return x

    expected = np.prod([kept(0.2, site=site, shape=(4, 16)) / 0.8 for site in range(3)], axis=0)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda x: layers(x).sum()))(x), expected, rtol=1e-6)

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from transformer.config import ModelConfig
from transformer.ops.normalization import batch_norm, rms_norm

EPSILON = 1e-5


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(loc=0.5, scale=2.0, size=shape)


def layer_norm_reference(x, scale, bias):
    return scale * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON) + bias


def rms_norm_reference(x, scale):
    return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON)


def test_layer_norm(ops, dtype, assert_matches):
    arrays = [features(2, 3, 7), features(7, seed=1), features(7, seed=2)]
    assert_matches(partial(ops.layer_norm, epsilon=EPSILON), layer_norm_reference, arrays, dtype, activations=1)


def test_layer_norm_with_a_traced_epsilon(ops, dtype, assert_matches):
    """It is an argument like any other, of which there is a gradient."""

    def reference(x, scale, bias, epsilon):
        return scale * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) + bias

    arrays = [features(2, 3, 7), features(7, seed=1), features(7, seed=2), np.array(0.5)]
    assert_matches(ops.layer_norm, reference, arrays, dtype, activations=1)


def test_epsilon_is_that_of_the_config_unless_given(ops):
    x, scale, bias = (jnp.asarray(array, jnp.float32) for array in (features(4, 7) * 1e-3, features(7), features(7)))
    epsilon = ModelConfig().norm_epsilon
    np.testing.assert_array_equal(ops.layer_norm(x, scale, bias), ops.layer_norm(x, scale, bias, epsilon))
    np.testing.assert_array_equal(rms_norm(x, scale), rms_norm(x, scale, epsilon))


def test_rms_norm(dtype, assert_matches):
    arrays = [features(2, 3, 7), features(7, seed=1)]
    assert_matches(partial(rms_norm, epsilon=EPSILON), rms_norm_reference, arrays, dtype, activations=1)


def test_rms_norm_maps_over_tokens():
    x, scale = (jnp.asarray(array, jnp.float32) for array in (features(4, 7), features(7)))
    mapped = jax.vmap(lambda token: rms_norm(token, scale, EPSILON))(x)
    np.testing.assert_allclose(mapped, rms_norm(x, scale, EPSILON), atol=1e-6)


def test_layer_norm_survives_a_mean_far_from_zero(ops):
    """E[x^2] - E[x]^2 would lose every digit of the variance here."""
    x = jnp.asarray(features(5, 64) + 1e4, jnp.float32)
    ones, zeros = jnp.ones(64), jnp.zeros(64)
    expected = layer_norm_reference(np.asarray(x, np.float64), 1.0, 0.0)
    normalize = jax.jit(partial(ops.layer_norm, epsilon=EPSILON))
    np.testing.assert_allclose(normalize(x, ones, zeros), expected, atol=2e-3)


def test_a_constant_token_has_finite_value_and_gradient(ops, dtype):
    @jax.jit
    def value_and_gradients(x):
        layer, pull_layer = jax.vjp(lambda x: ops.layer_norm(x, jnp.ones(8), jnp.zeros(8), EPSILON), x)
        rms, pull_rms = jax.vjp(lambda x: rms_norm(x, jnp.ones(8), EPSILON), x)
        return (layer, rms), (pull_layer(jnp.ones_like(x)), pull_rms(jnp.ones_like(x)))

    values, gradients = value_and_gradients(jnp.zeros((2, 8), dtype))
    assert not any(value.any() for value in values)
    assert all(jnp.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))


def test_layer_norm_keeps_its_input_and_two_numbers_a_token(written_out):
    """For the backward pass, where it is written out; the mean and the inverse deviation are the two numbers."""
    x, scale, bias = jnp.ones((4, 6, 32), jnp.bfloat16), jnp.ones(32), jnp.zeros(32)
    pull = jax.vjp(lambda *arrays: written_out.layer_norm(*arrays, EPSILON), x, scale, bias)[1]
    saved = jax.tree.leaves(pull)
    assert sum(leaf.nbytes for leaf in saved) <= x.nbytes + scale.nbytes + 2 * 4 * (4 * 6)
    assert sum(leaf.nbytes for leaf in saved) >= x.nbytes  # so the residuals have been seen


# Batch normalization. Rows of different lengths; the last one is padding only.
MASK = np.arange(5)[None] < np.array([5, 3, 1, 0])[:, None]


def batch_norm_reference(x, scale, bias, mask=MASK):
    tokens = x[mask]
    return scale * (x - tokens.mean(0)) / np.sqrt(tokens.var(0) + EPSILON) + bias


def train(x, scale, bias, mask=MASK, mean=None, variance=None, *, momentum=0.9, axis_name=None):
    size = x.shape[-1]
    mean = jnp.zeros(size) if mean is None else mean
    variance = jnp.ones(size) if variance is None else variance
    return batch_norm(
        x,
        scale,
        bias,
        jnp.asarray(mask),
        mean,
        variance,
        epsilon=EPSILON,
        momentum=momentum,
        train=True,
        axis_name=axis_name,
    )


def head_and_tail(result):
    return result[0], result[1:]


def batch_arrays(dtype="float32"):
    return jnp.asarray(features(4, 5, 6), dtype), jnp.asarray(features(6, seed=1)), jnp.asarray(features(6, seed=2))


def test_batch_norm(dtype, assert_matches):
    """Padding included: it is normalized by the statistics of the tokens, and bears none of their gradient."""
    arrays = [features(4, 5, 6), features(6, seed=1), features(6, seed=2)]
    assert_matches(lambda *arrays: train(*arrays)[0], batch_norm_reference, arrays, dtype, activations=1)


def test_batch_norm_moves_the_running_statistics_towards_the_biased_ones_of_the_tokens():
    x, scale, bias = batch_arrays()
    _, mean, variance = jax.jit(train)(x, scale, bias)
    tokens = np.asarray(x, np.float64)[MASK]
    np.testing.assert_allclose(mean, 0.1 * tokens.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * tokens.var(0), atol=1e-6)


def test_batch_norm_evaluates_with_the_running_statistics(dtype, assert_close):
    x, scale, bias = batch_arrays(dtype)
    mean, variance = jnp.arange(6.0), jnp.arange(1.0, 7.0)
    evaluate = jax.jit(partial(batch_norm, epsilon=EPSILON, momentum=0.9, train=False, axis_name=None))
    y, *running = evaluate(x, scale, bias, jnp.asarray(MASK), mean, variance)
    expected = (np.asarray(x, np.float64) - mean) / np.sqrt(np.asarray(variance) + EPSILON) * scale + bias
    assert_close(y, expected, dtype)
    np.testing.assert_array_equal(running, [mean, variance])


def test_padding_has_no_influence_on_tokens():
    x, scale, bias = batch_arrays()

    @jax.jit
    def apply(x):
        y, pull, running = jax.vjp(lambda x: head_and_tail(train(x, scale, bias)), x, has_aux=True)
        return y, pull(jnp.where(MASK[:, :, None], jnp.cos(x), 0))[0], running

    clean = apply(x)
    for content in (1e30, -1e-30):
        dirty = apply(jnp.where(MASK[:, :, None], x, content))
        for clean_array, dirty_array in zip(clean[:2], dirty[:2], strict=True):
            np.testing.assert_array_equal(clean_array[MASK], dirty_array[MASK])
        np.testing.assert_array_equal(clean[2], dirty[2])
    np.testing.assert_array_equal(apply(jnp.where(MASK[:, :, None], x, jnp.nan))[0][MASK], clean[0][MASK])


def test_a_batch_of_padding_leaves_the_running_statistics_alone():
    x, scale, bias = batch_arrays()
    mean, variance = jnp.full(6, 0.3), jnp.full(6, 1.7)
    nothing = np.zeros_like(MASK)

    @jax.jit
    def apply(x, scale):
        y, pull, running = jax.vjp(
            lambda x, scale: head_and_tail(train(x, scale, bias, nothing, mean, variance)), x, scale, has_aux=True
        )
        return y, pull(jnp.ones_like(y)), running

    y, gradients, running = apply(x, scale)
    np.testing.assert_array_equal(running, [mean, variance])
    np.testing.assert_allclose(y, (x - 0.3) / np.sqrt(1.7 + EPSILON) * scale + bias, rtol=1e-5, atol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_batch_norm_survives_a_mean_far_from_zero():
    x = jnp.asarray(features(4, 5, 6) + 1e4, jnp.float32)
    expected = batch_norm_reference(np.asarray(x, np.float64), 1.0, 0.0)
    np.testing.assert_allclose(train(x, jnp.ones(6), jnp.zeros(6))[0], expected, atol=5e-3)


def test_batch_norm_split_over_four_devices_equals_unsplit():
    """Values, running statistics and gradients; the parts hold 5, 3, 1 and 0 tokens."""
    x, scale, bias = batch_arrays()
    weight = jnp.asarray(features(4, 5, 6, seed=3), jnp.float32)
    whole = jax.jit(train)(x, scale, bias)

    def apply(x, mask):
        return train(x[None], scale, bias, mask[None], axis_name="data")

    y, mean, variance = jax.jit(jax.vmap(apply, axis_name="data"))(x, jnp.asarray(MASK))
    np.testing.assert_allclose(y[:, 0], whole[0], atol=1e-5)
    for split, unsplit in ((mean, whole[1]), (variance, whole[2])):
        np.testing.assert_allclose(split, np.broadcast_to(unsplit, (4, 6)), atol=1e-6)

    def local_gradients(x, mask, weight):
        def loss(x, scale):
            return (train(x[None], scale, bias, mask[None], axis_name="data")[0][0] * weight).sum()

        dx, dscale = jax.grad(loss, argnums=(0, 1))(x, scale)
        return dx, jax.lax.psum(dscale, "data")

    dx, dscale = jax.jit(jax.vmap(local_gradients, axis_name="data"))(x, jnp.asarray(MASK), weight)
    whole_gradients = jax.jit(jax.grad(lambda x, scale: (train(x, scale, bias)[0] * weight).sum(), argnums=(0, 1)))
    expected = whole_gradients(x, scale)
    np.testing.assert_allclose(dx, expected[0], atol=1e-5)
    np.testing.assert_allclose(dscale[0], expected[1], atol=1e-4)

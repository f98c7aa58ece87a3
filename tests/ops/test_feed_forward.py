import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.errors import InputError
from transformer.ops.feed_forward import ACTIVATIONS, feed_forward

REFERENCE = {
    "relu": lambda x: np.maximum(0, x),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_sigmoid": lambda x: x / (1 + np.exp(-1.702 * x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def arguments(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in ((2, 3, 5), (5, 7), (7,), (7, 5), (5,))]


def reference(activation, x, kernel_in, bias_in, kernel_out, bias_out):
    return REFERENCE[activation](x @ kernel_in + bias_in) @ kernel_out + bias_out


def test_every_activation_has_a_reference():
    assert set(ACTIVATIONS) == set(REFERENCE)


@pytest.mark.parametrize("activation", REFERENCE)
def test_feed_forward_is_eq_2(activation, dtype, assert_matches):
    function = partial(feed_forward, activation=activation)
    assert_matches(function, partial(reference, activation), arguments(), dtype, activations=1)


def test_an_unknown_activation_is_refused():
    with pytest.raises(
        InputError, match=r"must be one of relu, gelu, gelu_sigmoid, swish, but is 'Relu'\. Did you mean relu\?"
    ):
        feed_forward(*map(jnp.float32, arguments()), activation="Relu")


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_feed_forward_written_out(written_out, activation, dtype, assert_matches):
    implementation = {"linear": written_out.linear, "relu": written_out.relu}
    function = partial(feed_forward, activation=activation, **implementation)
    assert_matches(function, partial(reference, activation), arguments(), dtype, activations=1)


def test_relu_has_no_gradient_at_0(ops):
    x = jnp.array([-1.0, -0.0, 0.0, 1.0])
    np.testing.assert_array_equal(jax.grad(lambda x: ops.relu(x).sum())(x), [0, 0, 0, 1])


def test_gelu_is_the_exact_one_not_the_tanh_approximation():
    x = jnp.linspace(-4, 4, 101)
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), REFERENCE["gelu"](np.asarray(x, np.float64)), atol=1e-6)


def test_dropout_acts_on_the_activations():
    x, *parameters = (jnp.asarray(array, jnp.float32) for array in arguments())
    seen = []

    def drop_half(hidden):
        seen.append(hidden)
        return hidden.at[..., :4].set(0)

    dropped = feed_forward(x, *parameters, activation="relu", dropout=drop_half)
    assert seen[0].shape == (2, 3, 7)
    assert seen[0].min() == 0  # after the nonlinearity
    kernel_in, bias_in, kernel_out, bias_out = parameters
    kept = feed_forward(x, kernel_in[:, 4:], bias_in[4:], kernel_out[4:], bias_out, "relu")
    np.testing.assert_allclose(dropped, kept, atol=1e-5)


def test_every_position_is_mapped_alike(dtype, assert_close):
    x, *parameters = (jnp.asarray(array, jnp.float32) for array in arguments())
    x = x.astype(dtype)

    def apply(x):
        return feed_forward(x, *parameters, activation="relu")

    mapped = jax.jit(jax.vmap(jax.vmap(lambda token: apply(token[None])[0])))(x)
    assert_close(mapped, jax.jit(apply)(x), dtype)

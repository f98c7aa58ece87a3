"""The equations of `ops` in every mode of differentiation, and through a whole model that is made of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numerics import quick_jit

from transformer import ops, parameters
from transformer.config import ModelConfig
from transformer.model import Transformer
from transformer.ops.feed_forward import ACTIVATIONS
from transformer.ops.implementation import Implementation
from transformer.shapes import Batch

pytestmark = pytest.mark.usefixtures("quick_compilation")

MASK = jnp.array([[True, True, False, True], [True, False, True, True], [False] * 4])
KEY = ops.dropout_key(0, 0, jnp.arange(3))
TARGETS, COUNTED = jnp.array([1, 0, 3, 4, 2]), jnp.array([True, True, False, True, True])
NOT_DIFFERENTIABLE = {
    "DropoutKey",
    "causal_mask",
    "dropout_key",
    "fold_in",
    "padding_mask",
    "segment_mask",
    "segment_positions",
    "sinusoidal_positions",
}


def dropped(x: Any) -> Any:
    return ops.dropout(x, 0.3, KEY, 1)


def attend(query: Any, key: Any, value: Any, mask: Any = None, dropout: Any = None) -> Any:
    return ops.scaled_dot_product_attention(query, key, value, mask, dropout=dropout, return_weights=True)


def cross_entropy(hidden: Any, embedding: Any, bias: Any, *, label_smoothing: float) -> Any:
    """5 tokens in chunks of 2."""
    return ops.cross_entropy(hidden, embedding, bias, TARGETS, COUNTED, label_smoothing=label_smoothing, chunk=2)[0]


def batch_norm(x: Any, scale: Any, bias: Any, mean: Any, log_variance: Any, *, train: bool) -> Any:
    mask = MASK[:2, :3]
    running = mean, jnp.exp(log_variance)
    return ops.batch_norm(x, scale, bias, mask, *running, epsilon=1e-2, momentum=0.9, train=train, axis_name=None)


# By the name of the function, then what is special: a function of float arrays, and their shapes.
ATTENTION = [(3, 2), (4, 2), (4, 3)]
FEED_FORWARD = [(2, 3), (3, 4), (4,), (4, 3), (3,)]
LOSS = [(5, 2), (6, 2), (6,)]
BATCH_NORM = [(2, 3, 2), (2,), (2,), (2,), (2,)]
CASES: dict[str, tuple[Callable, list[tuple[int, ...]]]] = {
    "scaled_dot_product_attention: everywhere": (attend, ATTENTION),
    "scaled_dot_product_attention: masked, with dropout": (partial(attend, mask=MASK, dropout=dropped), ATTENTION),
    "rotate": (lambda x: ops.rotate(x, ops.sinusoidal_positions(3, 4, "interleaved")), [(2, 3, 4)]),
    "split_heads": (partial(ops.split_heads, num_heads=2), [(3, 4)]),
    "merge_heads": (ops.merge_heads, [(2, 3, 2)]),
    "linear": (ops.linear, [(2, 3), (3, 4), (4,)]),
    "output_logits": (ops.output_logits, [(2, 3), (4, 3), (4,)]),
    **{
        f"feed_forward: {activation}": (partial(ops.feed_forward, activation=activation), FEED_FORWARD)
        for activation in ACTIVATIONS
    },
    "layer_norm": (partial(ops.layer_norm, epsilon=1e-2), [(2, 4), (4,), (4,)]),
    "rms_norm": (partial(ops.rms_norm, epsilon=1e-2), [(2, 4), (4,)]),
    "batch_norm: training": (partial(batch_norm, train=True), BATCH_NORM),
    "batch_norm: evaluating": (partial(batch_norm, train=False), BATCH_NORM),
    "cross_entropy: plain targets": (partial(cross_entropy, label_smoothing=0.0), LOSS),
    "cross_entropy: label smoothing": (partial(cross_entropy, label_smoothing=0.1), LOSS),
    "dropout": (dropped, [(3, 4)]),
}
LINEAR = {"rotate", "split_heads", "merge_heads", "dropout"}  # their second derivatives are zero


def drawer() -> Callable[..., jax.Array]:
    """A function from shapes to normal arrays, the same ones for each test."""
    rng = np.random.default_rng(0)
    return lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    scale = np.abs(np.asarray(expected)).max(initial=1e-3)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


def test_every_differentiable_function_is_here():
    assert {name.partition(":")[0] for name in CASES} == set(ops.__all__) - NOT_DIFFERENTIABLE


@pytest.mark.parametrize("name", CASES)
def test_every_mode(name):
    """As a function of one vector: forward and reverse agree, and second derivatives are those of a function."""
    function, shapes = CASES[name]
    normal = drawer()
    arrays = [normal(*shape) for shape in shapes]
    point, unravel = ravel_pytree(arrays)

    def flat(x):
        return ravel_pytree(function(*unravel(x)))[0]

    direction, form = normal(point.size), normal(jax.eval_shape(flat, point).size)

    def scalar(x):
        return form @ flat(x)

    @jax.jit
    def derivatives(x):
        return flat(x), jax.jacfwd(flat)(x), jax.jacrev(flat)(x), jax.hessian(scalar)(x)

    @jax.jit
    @jax.vmap
    def first_order(x):
        return *jax.jvp(flat, (x,), (direction,)), jax.grad(scalar)(x)

    value, forward, reverse, hessian = derivatives(point)
    step = 2e-3
    near = jnp.stack([point, point + step * direction, point - step * direction])
    values, tangents, gradients = first_order(near)
    tangent, gradient = tangents[0], gradients[0]
    assert_close(form @ tangent, gradient @ direction)  # <w, J v> = <J^T w, v>
    assert_close(forward, reverse)
    assert_close(hessian, hessian.T)
    assert bool(hessian.any()) == (name not in LINEAR)
    # Under vmap there is what there is without it.
    assert_close(values[0], value)
    assert_close(tangent, forward @ direction)
    assert_close(gradient, form @ reverse)
    # By differences of the value and of the gradient.
    assert_close((values[1] - values[2]) / (2 * step), tangent, 1e-3)
    assert_close((gradients[1] - gradients[2]) / (2 * step), hessian @ direction, 1e-3)


def test_what_is_written_out_has_a_gradient_only(written_out: Implementation):
    """Hence the option `model.implementation`."""
    normal = drawer()
    x, square, vector = normal(3, 4), normal(4, 4), normal(4)
    functions: dict[str, Callable] = {
        "linear": lambda x: written_out.linear(x, square),
        "bias": lambda vector: written_out.linear(x, square, vector),
        "output_logits": lambda x: written_out.output_logits(x, square, vector),
        "attention": lambda x: written_out.attention(x, x, x)[0],
        "layer_norm": lambda x: written_out.layer_norm(x, vector, vector, 1e-5),
        "dropout": lambda x: written_out.dropout(x, 0.3, KEY, 1),
        "cross_entropy": lambda x: written_out.cross_entropy(x, square, vector, TARGETS[:3], COUNTED[:3])[0],
    }
    for name, function in functions.items():
        given = vector if name == "bias" else x
        jax.vjp(function, given)
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(function, (given,), (given,))


def loss_of_a_model(**settings: Any) -> tuple[Callable, jax.Array]:
    """The training loss as a function of all parameters, and a point."""
    small: dict[str, Any] = {
        "vocabulary_size": 13,
        "d_model": 8,
        "num_heads": 2,
        "d_ff": 12,
        "num_encoder_layers": 2,
        "max_positions": 8,
    }
    config = ModelConfig(**(small | settings))
    rng = np.random.default_rng(0)
    source, output = (jnp.asarray(rng.integers(3, 13, size=(2, length))) for length in (5, 4))
    source_mask, target_mask = (
        jnp.arange(longest) < jnp.array(lengths)[:, None] for longest, lengths in ((5, (5, 3)), (4, (2, 4)))
    )
    given = jnp.pad(output[:, :-1], ((0, 0), (1, 0)), constant_values=1)
    batch = Batch(source, source_mask, given, output, target_mask, jnp.arange(2))
    model = Transformer(config)
    point, unravel = ravel_pytree(jax.device_put(parameters.draw(model, 0)))

    def loss(x: jax.Array) -> jax.Array:
        return model.apply(unravel(x), batch, label_smoothing=0.1, method="loss")[0]

    return loss, point


# With smooth activations: differences would step over the kinks of relu.
MODELS: dict[str, dict[str, Any]] = {
    "scanned": {"num_decoder_layers": 2, "scan_unroll": 1, "activation": "swish"},
    "unrolled": {"num_decoder_layers": 1, "scan_unroll": None, "activation": "gelu", "norm_position": "pre"},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_plain_model_differentiates_in_every_mode(name):
    loss, point = loss_of_a_model(implementation="plain", **MODELS[name])
    one, other = drawer()(2, point.size)

    @quick_jit
    def derivatives(x, direction):
        """Value and gradient, and by how much they grow along a direction: its slope, and the Hessian times it."""
        return jax.jvp(jax.value_and_grad(loss), (x,), (direction,))

    (_, gradient), (slope, product) = derivatives(point, one)
    assert_close(slope, gradient @ one)
    assert_close(other @ product, one @ derivatives(point, other)[1][1], 1e-4)  # the Hessian is symmetric

    step = 1e-3
    ahead, behind = (derivatives(point + sign * step * one, one)[0] for sign in (1, -1))
    for after, before, expected in zip(ahead, behind, (slope, product), strict=True):
        assert_close((after - before) / (2 * step), expected, 1e-3)


def test_a_model_that_trains_fast_has_a_gradient_only():
    loss, point = loss_of_a_model(num_decoder_layers=1)
    jax.jit(jax.grad(loss)).lower(point)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jit(lambda x: jax.jvp(loss, (x,), (x,))).lower(point)

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops.loss import cross_entropy


def arguments(tokens=13, vocabulary=11, size=5, seed=0):
    rng = np.random.default_rng(seed)
    hidden, embedding, bias = (rng.normal(size=s) for s in ((tokens, size), (vocabulary, size), (vocabulary,)))
    return (
        [hidden, embedding, bias],
        jnp.asarray(rng.integers(vocabulary, size=tokens)),
        jnp.asarray(rng.random(tokens) < 0.7),
    )


def reference(hidden, embedding, bias, *, targets, mask, label_smoothing):
    logits = hidden @ embedding.T + bias
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    vocabulary = len(bias)
    wanted = (1 - label_smoothing) * np.eye(vocabulary)[targets] + label_smoothing / vocabulary
    return -(wanted * log_probabilities).sum(-1)[np.asarray(mask)].sum()


def plain(hidden, embedding, bias, *, targets, mask, label_smoothing):
    """The formula as one would write it, with all the logits at once."""
    log_probabilities = jax.nn.log_softmax((hidden @ embedding.astype(hidden.dtype).T).astype(jnp.float32) + bias)
    wanted = jax.nn.one_hot(targets, len(bias)) * (1 - label_smoothing) + label_smoothing / len(bias)
    return -((wanted * log_probabilities).sum(-1) * mask).sum()


@pytest.mark.parametrize("chunk", [4, 512])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_value_and_gradients_are_those_of_the_formula(label_smoothing, chunk, dtype, assert_close):
    """13 tokens: chunks of 4 leave one over, chunks of 512 are never filled."""
    arrays, targets, mask = arguments()
    hidden, embedding, bias = (
        jnp.asarray(array, kind) for array, kind in zip(arrays, (dtype, "float32", "float32"), strict=True)
    )

    def loss(hidden, embedding, bias):
        return cross_entropy(hidden, embedding, bias, targets, mask, label_smoothing=label_smoothing, chunk=chunk)

    (total, count), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(
        hidden, embedding, bias
    )
    exact = [np.asarray(array, np.float64) for array in (hidden, embedding, bias)]
    assert total.dtype == count.dtype == jnp.float32
    assert count == mask.sum()
    assert_close(total, reference(*exact, targets=targets, mask=mask, label_smoothing=label_smoothing), dtype)
    assert_close(jax.jit(loss)(hidden, embedding, bias)[0], total, "float32")  # without a gradient: another path

    logits = exact[0] @ exact[1].T + exact[2]
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = (1 - label_smoothing) * np.eye(11)[targets] + label_smoothing / 11
    dlogits = (probabilities - wanted) * np.asarray(mask)[:, None]
    expected = (dlogits @ exact[1], dlogits.T @ exact[0], dlogits.sum(0))
    for gradient, exact_gradient, kind in zip(gradients, expected, (dtype, "float32", "float32"), strict=True):
        assert gradient.dtype == kind
        assert_close(gradient, exact_gradient, dtype)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_equals_the_plain_formula_of_jax(label_smoothing):
    """The upstream factor too: the loss is divided by the number of tokens outside."""
    arrays, targets, mask = arguments(tokens=37, vocabulary=23, seed=1)
    arrays = [jnp.asarray(array, jnp.float32) for array in arrays]
    chunked = partial(cross_entropy, label_smoothing=label_smoothing, chunk=8)
    formula = partial(plain, label_smoothing=label_smoothing)

    @jax.jit
    def value_and_gradients(*arrays):
        ours = jax.value_and_grad(lambda *a: chunked(*a, targets=targets, mask=mask)[0] / 17, argnums=(0, 1, 2))
        theirs = jax.value_and_grad(lambda *a: formula(*a, targets=targets, mask=mask) / 17, argnums=(0, 1, 2))
        return ours(*arrays), theirs(*arrays)

    ours, theirs = value_and_gradients(*arrays)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


def test_gradients_are_those_of_finite_differences(assert_matches):
    """So that the closed form above has a witness."""
    arrays, targets, mask = arguments(tokens=3, vocabulary=4, size=2)

    def loss(*arrays):
        return cross_entropy(*arrays, targets=targets, mask=mask, label_smoothing=0.1, chunk=2)[0]

    exact = partial(reference, targets=targets, mask=mask, label_smoothing=0.1)
    assert_matches(loss, exact, arrays, "float32", activations=3)


def test_all_masked_is_zero_with_zero_gradients(dtype):
    arrays, targets, mask = arguments()
    hidden, embedding, bias = (jnp.asarray(array, jnp.float32) for array in arrays)
    nothing = jnp.zeros_like(mask)

    def loss(*arrays):
        return cross_entropy(*arrays, targets=targets, mask=nothing, label_smoothing=0.1, chunk=4)

    value_and_gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (total, count), gradients = value_and_gradients(hidden.astype(dtype), embedding, bias)
    assert total == count == 0
    assert not any(gradient.any() for gradient in gradients)


def test_masked_tokens_do_not_matter():
    (hidden, embedding, bias), targets, mask = arguments()
    arrays = [jnp.asarray(array, jnp.float32) for array in (hidden, embedding, bias)]
    other = [jnp.where(mask[:, None], arrays[0], 9.0), *arrays[1:]]
    totals = [
        cross_entropy(*given, targets=tokens, mask=mask, chunk=4)[0]
        for given, tokens in ((arrays, targets), (other, jnp.where(mask, targets, 0)))
    ]
    assert totals[0] == totals[1]


def test_uniform_predictions_cost_log_v_with_and_without_smoothing():
    _, targets, mask = arguments()
    for label_smoothing in (0.0, 0.1):
        total, count = cross_entropy(
            jnp.zeros((13, 5)), jnp.ones((11, 5)), jnp.zeros(11), targets, mask, label_smoothing=label_smoothing
        )
        assert float(total / count) == pytest.approx(math.log(11), rel=1e-6)


def test_large_logits_do_not_overflow():
    (hidden, embedding, bias), targets, mask = arguments()
    arrays = [jnp.asarray(array, jnp.float32) for array in (1e4 * hidden, embedding, bias)]
    total, gradients = jax.value_and_grad(
        lambda *a: cross_entropy(*a, targets=targets, mask=mask, chunk=4)[0], argnums=(0, 1, 2)
    )(*arrays)
    assert jnp.isfinite(total)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def intermediates(jaxpr):
    """Shapes of everything a program computes, inner programs (scan, cond, custom gradients) included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from intermediates(inner)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_all_the_logits_never_exist(label_smoothing):
    """No array of the value's or the gradient's program has [tokens, vocabulary] elements."""
    tokens, vocabulary = 64, 50
    (hidden, embedding, bias), targets, mask = arguments(tokens, vocabulary, size=3)
    arrays = [jnp.asarray(array, jnp.float32) for array in (hidden, embedding, bias)]

    def largest(loss):
        programs = [jax.make_jaxpr(loss)(*arrays), jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)]
        return [max(math.prod(shape) for shape in intermediates(program.jaxpr)) for program in programs]

    def chunked(*a):
        return cross_entropy(*a, targets=targets, mask=mask, label_smoothing=label_smoothing, chunk=8)[0]

    # One chunk of logits is the largest array, so the walk has seen the inside of the scan.
    assert largest(chunked) == [8 * vocabulary, 8 * vocabulary]
    control = partial(plain, targets=targets, mask=mask, label_smoothing=label_smoothing)
    assert min(largest(control)) >= tokens * vocabulary

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops import implementation
from transformer.ops.implementation import ACCELERATOR, LOGITS_OF_A_CHUNK
from transformer.ops.loss import CHUNK


@pytest.fixture
def cross_entropy(ops):
    """In chunks of 4 tokens; an accelerator's hold 64 at least, so that there is one."""
    return ops.cross_entropy if ops is ACCELERATOR else partial(ops.cross_entropy, chunk=4)


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


def reference_gradients(hidden, embedding, bias, *, targets, mask, label_smoothing):
    """In closed form, with softmax(logits) - wanted as the gradient with respect to the logits."""
    logits, vocabulary = hidden @ embedding.T + bias, len(bias)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = (1 - label_smoothing) * np.eye(vocabulary)[targets] + label_smoothing / vocabulary
    dlogits = (probabilities - wanted) * np.asarray(mask)[:, None]
    return dlogits @ embedding, dlogits.T @ hidden, dlogits.sum(0)


def formula(hidden, embedding, bias, *, targets, mask, label_smoothing):
    """As one would write it, with all the logits at once."""
    log_probabilities = jax.nn.log_softmax((hidden @ embedding.astype(hidden.dtype).T).astype(jnp.float32) + bias)
    wanted = jax.nn.one_hot(targets, len(bias)) * (1 - label_smoothing) + label_smoothing / len(bias)
    return -((wanted * log_probabilities).sum(-1) * mask).sum()


@pytest.mark.parametrize(("label_smoothing", "dtype"), [(0.0, "float32"), (0.1, "float32"), (0.1, "bfloat16")], ids=str)
def test_value_and_gradients_are_those_of_the_formula(cross_entropy, label_smoothing, dtype, assert_close):
    """13 tokens: chunks of 4 leave one over, chunks of 512 are never filled. The mean over 17 is taken outside."""
    arrays, targets, mask = arguments()
    types = (dtype, "float32", "float32")
    arrays = [jnp.asarray(array, kind) for array, kind in zip(arrays, types, strict=True)]

    def loss(hidden, embedding, bias):
        total, count = cross_entropy(hidden, embedding, bias, targets, mask, label_smoothing=label_smoothing)
        return total / 17, count

    (mean, count), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    exact = [np.asarray(array, np.float64) for array in arrays]
    given = {"targets": targets, "mask": mask, "label_smoothing": label_smoothing}
    assert mean.dtype == count.dtype == jnp.float32
    assert count == mask.sum()
    assert_close(mean, reference(*exact, **given) / 17, dtype)
    assert_close(jax.jit(loss)(*arrays)[0], mean, "float32")  # without a gradient: another path
    for gradient, expected, kind in zip(gradients, reference_gradients(*exact, **given), types, strict=True):
        assert gradient.dtype == kind
        assert_close(gradient, expected / 17, dtype)


def test_many_tokens_are_as_many_chunks(ops, monkeypatch, assert_close):
    """1,100 tokens in three chunks, of 512 tokens, or on an accelerator of equal size. The last is filled up."""
    vocabulary = 11
    monkeypatch.setattr(implementation, "LOGITS_OF_A_CHUNK", 512 * vocabulary)
    arrays, targets, mask = arguments(1100, vocabulary)
    arrays = [jnp.asarray(array, jnp.float32) for array in arrays]

    def loss(*arrays):
        return ops.cross_entropy(*arrays, targets, mask, label_smoothing=0.1)[0]

    total, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arrays)
    exact = [np.asarray(array, np.float64) for array in arrays]
    given = {"targets": targets, "mask": mask, "label_smoothing": 0.1}
    assert_close(total, reference(*exact, **given), "float32")
    for gradient, expected in zip(gradients, reference_gradients(*exact, **given), strict=True):
        assert_close(gradient, expected, "float32")
    size = 384 if ops is ACCELERATOR else 512
    assert f"f32[{size},{vocabulary}]" in str(jax.make_jaxpr(loss)(*arrays))


def test_gradients_are_those_of_finite_differences(cross_entropy, assert_matches):
    """So that the closed form above has a witness."""
    arrays, targets, mask = arguments(tokens=5, vocabulary=4, size=2)
    given = {"targets": targets, "mask": mask, "label_smoothing": 0.1}
    exact = partial(reference, **given)
    assert_matches(lambda *arrays: cross_entropy(*arrays, **given)[0], exact, arrays, "float32", activations=3)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_label_smoothing_may_be_traced(cross_entropy, label_smoothing, dtype, assert_matches):
    """It is an argument like any other, of which there is a gradient."""
    arrays, targets, mask = arguments()

    def loss(hidden, embedding, bias, label_smoothing):
        return cross_entropy(hidden, embedding, bias, targets, mask, label_smoothing=label_smoothing)[0]

    def exact(hidden, embedding, bias, label_smoothing):
        return reference(hidden, embedding, bias, targets=targets, mask=mask, label_smoothing=label_smoothing)

    assert_matches(loss, exact, [*arrays, np.array(label_smoothing)], dtype, activations=1, result="float32")


def test_all_masked_is_zero_with_zero_gradients(cross_entropy, dtype):
    arrays, targets, mask = arguments()
    hidden, embedding, bias = (jnp.asarray(array, jnp.float32) for array in arrays)
    nothing = jnp.zeros_like(mask)

    def loss(*arrays):
        return cross_entropy(*arrays, targets=targets, mask=nothing, label_smoothing=0.1)

    value_and_gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (total, count), gradients = value_and_gradients(hidden.astype(dtype), embedding, bias)
    assert total == count == 0
    assert not any(gradient.any() for gradient in gradients)


def test_masked_tokens_do_not_matter(cross_entropy):
    (hidden, embedding, bias), targets, mask = arguments()
    arrays = [jnp.asarray(array, jnp.float32) for array in (hidden, embedding, bias)]
    other = [jnp.where(mask[:, None], arrays[0], 9.0), *arrays[1:]]
    total = jax.jit(lambda targets, *arrays: cross_entropy(*arrays, targets=targets, mask=mask)[0])
    assert total(targets, *arrays) == total(jnp.where(mask, targets, 0), *other)


def test_uniform_predictions_cost_log_v_with_and_without_smoothing(cross_entropy):
    _, targets, mask = arguments()
    for label_smoothing in (0.0, 0.1):
        loss = jax.jit(partial(cross_entropy, label_smoothing=label_smoothing))
        total, count = loss(jnp.zeros((13, 5)), jnp.ones((11, 5)), jnp.zeros(11), targets, mask)
        assert float(total / count) == pytest.approx(math.log(11), rel=1e-6)


def test_large_logits_do_not_overflow(cross_entropy):
    (hidden, embedding, bias), targets, mask = arguments()
    arrays = [jnp.asarray(array, jnp.float32) for array in (1e4 * hidden, embedding, bias)]
    loss = jax.jit(jax.value_and_grad(lambda *a: cross_entropy(*a, targets=targets, mask=mask)[0], argnums=(0, 1, 2)))
    total, gradients = loss(*arrays)
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


def largest(loss, tokens, vocabulary):
    """The number of elements of the largest array, in the program of the value and in that of the gradient.

    Nothing is computed, so the sizes may be real ones.
    """
    shapes = [(tokens, 2), (vocabulary, 2), (vocabulary,)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    given = [jax.ShapeDtypeStruct((tokens,), kind) for kind in (jnp.int32, jnp.bool)]
    programs = [
        jax.make_jaxpr(loss)(*arrays, *given),
        jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*arrays, *given),
    ]
    return [max(math.prod(shape) for shape in intermediates(program.jaxpr)) for program in programs]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_all_the_logits_never_exist(ops, label_smoothing):
    """No array of the value's or the gradient's program has [tokens, vocabulary] elements."""
    tokens, vocabulary = 4 * CHUNK, LOGITS_OF_A_CHUNK // CHUNK

    def chunked(*arrays):
        return ops.cross_entropy(*arrays, label_smoothing=label_smoothing)[0]

    # One chunk of logits is the largest array, so the walk has seen the inside of the scan.
    assert largest(chunked, tokens, vocabulary) == [CHUNK * vocabulary, CHUNK * vocabulary]

    def control(hidden, embedding, bias, targets, mask):
        return formula(hidden, embedding, bias, targets=targets, mask=mask, label_smoothing=label_smoothing)

    assert min(largest(control, tokens, vocabulary)) >= tokens * vocabulary


def test_chunks_of_an_accelerator_are_few_and_of_equal_size():
    """Padding in the last chunk costs as much as tokens do: it is less than 64 tokens a chunk."""
    tokens = 390 * 64

    def loss(*arrays):
        return ACCELERATOR.cross_entropy(*arrays)[0]

    for vocabulary, chunks in ((1000, 1), (37_000, 4), (65_000, 7)):
        assert math.ceil(tokens * vocabulary / LOGITS_OF_A_CHUNK) == chunks
        for size in largest(loss, tokens, vocabulary):
            assert size % (64 * vocabulary) == 0
            assert 0 <= chunks * size // vocabulary - tokens < 64 * chunks

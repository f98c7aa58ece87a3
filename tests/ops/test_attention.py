import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from transformer.ops.masks import causal_mask, padding_mask


def attend(ops, query, key, value, mask=None):
    return ops.attention(query, key, value, mask)[0]


def reference_weights(query, key, mask: Any = True):
    scores = query @ np.swapaxes(key, -1, -2) / math.sqrt(query.shape[-1])
    exponentials = np.exp(scores - scores.max(-1, keepdims=True)) * np.broadcast_to(mask, scores.shape)
    total = exponentials.sum(-1, keepdims=True)
    return exponentials / np.where(total == 0, 1, total)


def reference(query, key, value, mask: Any = True):
    return reference_weights(query, key, mask) @ value


def arguments(batch=(2, 2), queries=3, keys=4, size=5, value_size=5, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(*batch, *end)) for end in ((queries, size), (keys, size), (keys, value_size))]


@partial(jax.jit, static_argnums=0)
def value_and_gradients(ops, mask, *arrays):
    """Values attended to, and the gradient of their sum; one program for all tests of one shape and type."""
    attended, pull = jax.vjp(partial(attend, ops, mask=mask), *arrays)
    return attended, *pull(jnp.ones_like(attended))


# Row 1 has two tokens; the third query of each row may attend to nothing.
MASK = padding_mask(jnp.array([[True] * 4, [True, True, False, False]])) & jnp.array([True, True, False])[:, None]


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_value_and_gradients_are_those_of_eq_1(ops, mask, dtype, assert_matches):
    exact = partial(reference, mask=True if mask is None else np.asarray(mask))
    assert_matches(partial(attend, ops, mask=mask), exact, arguments(), dtype, activations=3)


@pytest.mark.parametrize(
    ("batch", "queries", "keys", "size", "value_size"),
    [((2, 1), 1, 7, 3, 2), ((1, 3), 7, 1, 8, 8), ((), 3, 5, 17, 9)],
    ids=["one query", "one key", "no batch"],
)
@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_every_shape(ops, batch, queries, keys, size, value_size, dtype, assert_matches):
    """One query is decoding's shape; XLA's CPU products in bfloat16 fail on some shapes at run time, not before."""
    arrays = arguments(batch, queries, keys, size, value_size)
    assert_matches(partial(attend, ops), reference, arrays, dtype, activations=3)


def test_returned_weights_are_the_ones_used(ops, dtype, assert_close):
    query, key, value = (jnp.asarray(array, dtype) for array in arguments())
    alone, nothing = jax.jit(ops.attention)(query, key, value, MASK)
    attended, weights = jax.jit(partial(ops.attention, return_weights=True))(query, key, value, MASK)
    assert nothing is None
    assert weights.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(attended, np.float32), np.asarray(alone, np.float32))
    exact = reference_weights(np.asarray(query, np.float64), np.asarray(key, np.float64), np.asarray(MASK))
    assert_close(weights, exact, dtype)
    assert_close(alone, np.asarray(weights, np.float64) @ np.asarray(value, np.float64), dtype)
    # They sum to one over what may be attended to.
    np.testing.assert_allclose(weights[:, :, :2].sum(-1), 1, atol=1e-6)
    assert not weights[jnp.broadcast_to(~MASK, weights.shape)].any()


def test_a_query_with_nothing_to_attend_to_gets_zeros_and_finite_gradients(ops, dtype):
    arrays = [jnp.asarray(array, dtype) for array in arguments()]
    attended, *gradients = (np.asarray(a, np.float32) for a in value_and_gradients(ops, MASK, *arrays))
    assert not attended[:, :, 2].any()
    assert attended[:, :, :2].all()
    assert not gradients[0][:, :, 2].any()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert not any(np.asarray(a, np.float32).any() for a in value_and_gradients(ops, jnp.zeros_like(MASK), *arrays))


def test_large_scores_do_not_overflow(ops, dtype):
    query, key, value = (jnp.asarray(array, dtype) for array in arguments())
    found = value_and_gradients(ops, MASK, 1e4 * query, 1e4 * key, value)
    assert all(np.isfinite(np.asarray(a, np.float32)).all() for a in found)


def test_masked_keys_have_no_influence(ops, dtype):
    query, key, value = (jnp.asarray(array, dtype) for array in arguments())
    other_key, other_value = (array.at[1, :, 2:].set(100.0) for array in (key, value))
    run = partial(value_and_gradients, ops, MASK)
    for one, other in zip(run(query, key, value), run(query, other_key, other_value), strict=True):
        np.testing.assert_array_equal(np.asarray(one, np.float32), np.asarray(other, np.float32))


def test_causality_is_exact(ops, dtype):
    """The gradient of position t's result with respect to every later key and value is exactly zero."""
    length = 6
    arrays = [jnp.asarray(array, dtype) for array in arguments((1, 2), length, length)]
    causal = partial(attend, ops, mask=causal_mask(length))
    pull = jax.jit(lambda cotangent, *arrays: jax.vjp(causal, *arrays)[1](cotangent))
    for t in range(length):
        cotangent = np.zeros(arrays[2].shape, dtype)
        cotangent[:, :, t] = 1
        dquery, dkey, dvalue = (np.asarray(gradient, np.float32) for gradient in pull(cotangent, *arrays))
        for gradient in (dkey, dvalue):
            assert not gradient[:, :, t + 1 :].any()
        assert not np.delete(dquery, t, axis=2).any()
        assert dvalue[:, :, : t + 1].all()


def test_dropout_meets_the_weights_between_softmax_and_values(ops):
    query, key, value = (jnp.asarray(array, jnp.float32) for array in arguments())
    pattern = jnp.array([0.0, 2.0, 2.0, 0.0])
    dropping = partial(ops.attention, dropout=lambda weights: weights * pattern, return_weights=True)
    attended, weights = jax.jit(dropping)(query, key, value)
    exact = reference_weights(np.asarray(query, np.float64), np.asarray(key, np.float64))
    np.testing.assert_allclose(weights, exact, atol=1e-6)  # the softmax's own, before dropout
    np.testing.assert_allclose(attended, (exact * pattern) @ value, atol=1e-5)


def test_vmap_in_bfloat16_equals_the_batch(ops, assert_close):
    """In float32: test_implementation.py."""
    arrays = [jnp.asarray(array, jnp.bfloat16) for array in arguments((3, 2))]
    run = partial(value_and_gradients, ops, None)
    for mapped, part in zip(jax.jit(jax.vmap(run))(*arrays), run(*arrays), strict=True):
        assert_close(mapped, part, "bfloat16")


def test_sizes_that_an_export_leaves_open(ops, assert_close):
    """As in `export_search`: four hypotheses attend to sources of a number and a length that are not known yet."""
    program = jax.jit(partial(attend, ops))
    batch, length = export.symbolic_shape("B, S")
    shapes = [(batch, 2, 4, 5), (batch, 2, length, 5), (batch, 2, length, 5)]
    exported = export.export(program)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    for keys in (3, 40):
        arrays = [jnp.asarray(array, jnp.float32) for array in arguments((3, 2), 4, keys)]
        assert_close(exported.call(*arrays), program(*arrays), "float32")


def test_split_and_merge_are_inverse_and_give_head_h_its_features(ops):
    x = jnp.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    heads = jax.jit(ops.split_heads, static_argnums=1)(x, 4)
    assert heads.shape == (2, 4, 3, 2)
    np.testing.assert_array_equal(heads[:, 1], x[:, :, 2:4])
    np.testing.assert_array_equal(jax.jit(ops.merge_heads)(heads), x)


@pytest.mark.parametrize(("rows", "queries", "keys"), [(1, 1, 5), (3, 5, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_multi_head_attention_with_its_projections(ops, rows, queries, keys, dtype, assert_matches):
    """Section 3.2.2, MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O, one product projecting for all heads."""
    width, num_heads = 6, 2
    size = width // num_heads
    rng = np.random.default_rng(0)
    x, memory = rng.normal(size=(rows, queries, width)), rng.normal(size=(rows, keys, width))
    kernels = [rng.normal(size=(width, width)) / math.sqrt(width) for _ in range(4)]

    def multi_head(x, memory, kernel_q, kernel_k, kernel_v, kernel_o):
        query = ops.split_heads(ops.linear(x, kernel_q), num_heads)
        key, value = (ops.split_heads(ops.linear(memory, kernel), num_heads) for kernel in (kernel_k, kernel_v))
        return ops.linear(ops.merge_heads(attend(ops, query, key, value)), kernel_o)

    def exact(x, memory, kernel_q, kernel_k, kernel_v, kernel_o):
        heads = [slice(h * size, (h + 1) * size) for h in range(num_heads)]
        parts = [reference(x @ kernel_q[:, h], memory @ kernel_k[:, h], memory @ kernel_v[:, h]) for h in heads]
        return np.concatenate(parts, axis=-1) @ kernel_o

    assert_matches(multi_head, exact, [x, memory, *kernels], dtype, activations=2)

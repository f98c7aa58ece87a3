"""Every attention that stores no weights, against float64 NumPy: packed rows, padding, with and without causality."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops.attention_gpu import flash_attention
from transformer.ops.attention_tpu import splash_attention
from transformer.ops.blockwise import blockwise_attention
from transformer.ops.masks import AttentionMask

pytestmark = pytest.mark.usefixtures("quick_compilation")

FUSED: dict[str, Any] = {
    "blockwise": partial(blockwise_attention, block=48),
    "gpu": partial(flash_attention, interpret=jax.default_backend() != "gpu"),
    "tpu": partial(splash_attention, interpret=jax.default_backend() != "tpu"),
}
# The second row's last segment of the source has no translation, and both rows end in padding.
SOURCE = np.array([[1] * 20 + [2] * 31 + [3] * 17 + [0] * 4, [1] * 40 + [2] * 20 + [3] * 6 + [0] * 6])
TARGET = np.array([[1] * 33 + [2] * 20 + [3] * 8 + [0] * 11, [1] * 22 + [2] * 35 + [0] * 15])
CASES = {
    "self": (SOURCE, SOURCE, False),
    "causal": (TARGET, TARGET, True),
    "cross": (TARGET, SOURCE, False),
    "one block": (TARGET[:, :40], SOURCE[:, :56], False),
    "padding alone": (np.ones_like(TARGET), (SOURCE != 0).astype(int), False),
    "three blocks": (np.tile(TARGET[:, :65], 2), np.tile(SOURCE[:, :65], 2), False),
}
# Heads of the paper's models have 64 features.
GIVEN = [*((case, "float32", 8) for case in CASES), ("causal", "bfloat16", 64), ("cross", "bfloat16", 64)]
# Relative to the largest element. A result goes through three roundings of half an epsilon at most: of the weights or
# of their gradients before a product, of the attended values that the backward pass reads, and of the result itself.
TOLERANCE = {"float32": 2e-5, "bfloat16": 1.5 * 2**-7}


def exact(query, key, value, gradient, query_segments, key_segments, is_causal):
    """Eq. 1 and its gradients, written out: [B, T, H, E] each."""
    allowed = (query_segments[:, :, None] == key_segments[:, None]) & (key_segments != 0)[:, None]
    if is_causal:
        allowed &= np.tri(*allowed.shape[1:], dtype=bool)
    allowed = allowed[:, None]
    scores = np.einsum("bqhe,bkhe->bhqk", query, key) / math.sqrt(query.shape[-1])
    exponentials = np.exp(scores - scores.max(-1, keepdims=True)) * allowed
    total = exponentials.sum(-1, keepdims=True)
    weights = exponentials / np.where(total == 0, 1, total)
    dweights = np.einsum("bqhe,bkhe->bhqk", gradient, value)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True)) / math.sqrt(query.shape[-1])
    return (
        np.einsum("bhqk,bkhe->bqhe", weights, value),
        np.einsum("bhqk,bkhe->bqhe", dscores, key),
        np.einsum("bhqk,bqhe->bkhe", dscores, query),
        np.einsum("bhqk,bqhe->bkhe", weights, gradient),
    )


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(("case", "dtype", "size"), GIVEN)
def test_values_and_gradients_are_those_of_eq_1(name, case, dtype, size):
    query_segments, key_segments, is_causal = CASES[case]
    rng, heads = np.random.default_rng(0), 2
    shapes = [
        (*segments.shape, heads, size) for segments in (query_segments, key_segments, key_segments, query_segments)
    ]
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    segments = jnp.asarray(query_segments, jnp.int32), jnp.asarray(key_segments, jnp.int32)

    @jax.jit
    def values_and_gradients(query, key, value, gradient):
        attended, pull = jax.vjp(lambda *given: FUSED[name](*given, *segments, is_causal), query, key, value)
        return attended, *pull(gradient)

    found = values_and_gradients(*arrays)
    query, key, value, gradient = (np.asarray(array, np.float64) for array in arrays)
    expected = exact(query, key, value, gradient, query_segments, key_segments, is_causal)
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, dtype)
        np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=0, atol=TOLERANCE[dtype] * abs(other).max())


def test_a_mask_is_the_same_stored_or_not():
    queries, keys = jnp.asarray(TARGET), jnp.asarray(SOURCE)
    packed = AttentionMask(queries, keys).dense(queries.shape[1])
    assert packed is not None
    assert (packed[:, 0] == (TARGET[:, :, None] == SOURCE[:, None]) & (SOURCE != 0)[:, None]).all()
    tokens = jnp.asarray(SOURCE != 0)
    padded = AttentionMask(None, tokens)
    of_queries, of_keys = padded.segments(2, 5, tokens.shape[1])
    dense, causal = np.asarray(padded.dense(5)), np.asarray(AttentionMask(None, None, True).dense(3))
    assert ((of_queries[:, :, None] == of_keys[:, None]) == np.broadcast_to(dense[:, 0], (2, 5, 72))).all()
    assert (causal[0, 0] == np.tri(3, dtype=bool)).all()
    assert AttentionMask(None, None).dense(3) is None

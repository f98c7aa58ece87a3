import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.errors import InputError
from transformer.ops.masks import causal_mask, padding_mask, segment_mask
from transformer.ops.normalization import batch_norm


def test_padding_mask_opens_the_tokens_of_a_row_to_all_its_queries():
    tokens = jnp.array([[True, True, False], [True, False, False]])
    mask = jax.jit(padding_mask)(tokens)
    assert mask.shape == (2, 1, 1, 3)
    np.testing.assert_array_equal(mask[:, 0, 0], tokens)


def test_causal_mask_is_the_lower_triangle():
    mask = causal_mask(3)
    assert mask.shape == (1, 1, 3, 3)
    assert mask[0, 0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    np.testing.assert_array_equal(jax.jit(causal_mask, static_argnums=0)(3), mask)


def test_segment_mask_keeps_packed_sentences_apart_and_padding_out():
    mask = jax.jit(segment_mask)(jnp.array([[1, 2, 2, 0]]), jnp.array([[1, 1, 2, 0, 0]]))
    assert mask.shape == (1, 1, 4, 5)
    assert mask[0, 0].astype(int).tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_masks_combine_by_and():
    segments = jnp.array([[1, 1, 2, 0]])
    mask = segment_mask(segments, segments) & causal_mask(4) & padding_mask(segments > 0)
    assert mask.dtype == bool
    assert mask[0, 0].astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_masks_map_over_a_leading_axis():
    segments = jnp.array([[[1, 1, 2]], [[1, 2, 0]]])
    mapped = jax.vmap(segment_mask)(segments, segments)
    for i in range(2):
        np.testing.assert_array_equal(mapped[i], segment_mask(segments[i], segments[i]))


def raises(dtype):
    return pytest.raises(InputError, match=rf"must be boolean.* its dtype is {dtype}\..* `mask == 0`")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_a_mask_of_another_type_is_rejected(ops, dtype):
    """0 and -inf, or 0 and 1: read as booleans, the first would be the wrong way round, without a word."""
    x = jnp.ones((2, 3, 4))
    with raises(dtype):
        ops.attention(x, x, x, jnp.zeros((2, 3, 3), dtype))
    with raises(dtype):
        jax.jit(ops.attention)(x, x, x, jnp.zeros((2, 3, 3), dtype))
    with raises(dtype):
        ops.cross_entropy(jnp.ones((3, 4)), jnp.ones((5, 4)), jnp.zeros(5), jnp.arange(3), jnp.zeros(3, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_a_mask_of_tokens_of_another_type_is_rejected(dtype):
    tokens, ones = jnp.ones((2, 3), dtype), jnp.ones(4)
    with raises(dtype):
        padding_mask(tokens)
    for train in (True, False):
        with raises(dtype):
            batch_norm(
                jnp.ones((2, 3, 4)),
                ones,
                ones,
                tokens,
                ones,
                ones,
                epsilon=1e-5,
                momentum=0.9,
                train=train,
                axis_name=None,
            )

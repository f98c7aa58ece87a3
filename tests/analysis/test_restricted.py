from functools import partial

import jax
import numpy as np
import pytest
from numerics import assert_matches

from transformer.analysis.complexity.restricted import restricted_attention


def banded(query, key, value, reach):
    """Eq. 1 with all n^2 scores and a banded mask."""
    scores = query @ np.swapaxes(key, -1, -2) / np.sqrt(query.shape[-1])
    position = np.arange(query.shape[-2])
    near = np.abs(position - position[:, None]) <= reach
    exponentials = np.exp(scores - scores.max(-1, keepdims=True)) * near
    return exponentials / exponentials.sum(-1, keepdims=True) @ value


@pytest.mark.parametrize(
    ("batch", "length", "reach", "dtype"),
    [((2,), 7, 2, "float32"), ((2,), 7, 2, "bfloat16"), ((), 3, 1, "float32"), ((1, 1), 3, 5, "float32")],
    ids=["incomplete block", "in bfloat16", "next neighbours", "everything"],
)
def test_value_and_gradients_are_those_of_a_banded_mask(batch, length, reach, dtype):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(*batch, length, size)) for size in (4, 4, 3)]
    assert_matches(
        partial(restricted_attention, reach=reach), partial(banded, reach=reach), arrays, dtype, activations=3
    )


def test_operations_grow_with_the_neighbourhood_and_not_with_the_square_of_the_length():
    def operations(length: int, reach: int) -> float:
        x = jax.ShapeDtypeStruct((length, 64), "float32")
        counts = jax.jit(partial(restricted_attention, reach=reach)).lower(x, x, x).cost_analysis()
        assert counts is not None
        return counts["flops"]

    assert operations(512, 8) / operations(256, 8) == pytest.approx(2, rel=0.02)
    assert operations(256, 16) / operations(256, 8) == pytest.approx(2, rel=0.02)
    assert operations(256, 8) == pytest.approx(2 * 2 * 256 * 3 * 8 * 64, rel=0.1)  # 3 reach keys per query


def test_forward_and_reverse_mode_agree():
    arrays = jax.random.normal(jax.random.key(0), (3, 5, 2))
    attend = lambda arrays: restricted_attention(*arrays, reach=1)  # noqa: E731
    forward, reverse = jax.jit(lambda arrays: (jax.jacfwd(attend)(arrays), jax.jacrev(attend)(arrays)))(arrays)
    np.testing.assert_allclose(forward, reverse, atol=1e-5)

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.errors import InputError
from transformer.ops.positions import rotate, segment_positions, sinusoidal_positions

LAYOUTS = ("interleaved", "halved", "halved_t2t")


def test_interleaved_is_section_3_5():
    table = sinusoidal_positions(50, 6, "interleaved")
    assert table.dtype == jnp.float32
    for position in (0, 1, 7, 49):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert math.isclose(table[position, 2 * i], math.sin(angle), abs_tol=6e-8)
            assert math.isclose(table[position, 2 * i + 1], math.cos(angle), abs_tol=6e-8)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        # d_model 4, position 2: wavelengths 2 pi 10000^0 and 2 pi 10000^(1/2), with T2T's exponent 10000^1.
        ("interleaved", [0.90929743, -0.41614684, 0.01999867, 0.99980001]),
        ("halved", [0.90929743, 0.01999867, -0.41614684, 0.99980001]),
        ("halved_t2t", [0.90929743, 0.0002, -0.41614684, 0.99999998]),
    ],
)
def test_layouts_are_pinned(layout, expected):
    np.testing.assert_allclose(sinusoidal_positions(3, 4, layout)[2], expected, rtol=0, atol=5e-9 + 6e-8)


def test_the_layout_is_the_paper_s_unless_given():
    np.testing.assert_array_equal(sinusoidal_positions(9, 8), sinusoidal_positions(9, 8, "interleaved"))


@pytest.mark.parametrize(
    ("d_model", "layout", "message"),
    [
        (8, "interleave", r"must be one of interleaved, halved, halved_t2t, but is 'interleave'\. Did you mean interl"),
        (8, None, r"must be one of interleaved, halved, halved_t2t, but is None\.$"),
        (7, "interleaved", "need an even d_model of at least 2, but it is 7"),
        (2, "halved_t2t", "need an even d_model of at least 4, but it is 2"),
    ],
)
def test_another_layout_or_an_odd_width_is_refused(d_model, layout, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(sinusoidal_positions)(9, d_model, layout)  # without the tests' own check of types


def test_halved_has_the_features_of_interleaved_in_another_order():
    interleaved, halved = (sinusoidal_positions(20, 10, layout) for layout in ("interleaved", "halved"))
    np.testing.assert_array_equal(halved[:, :5], interleaved[:, 0::2])
    np.testing.assert_array_equal(halved[:, 5:], interleaved[:, 1::2])


def test_wavelengths_end_where_each_source_says():
    """The slowest sine: 2 pi 10000^(1 - 2/d) with the exponent 2i/d, exactly 2 pi 10000 with i/(d/2 - 1)."""
    slowest = [float(np.arcsin(sinusoidal_positions(2, 512, layout)[1, 255])) for layout in ("halved", "halved_t2t")]
    np.testing.assert_allclose(slowest, [10000 ** (2 / 512 - 1), 1e-4], rtol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_far_positions_are_as_exact_as_near_ones(layout):
    """In float32 the angle itself would be off by 3e-5 at position 1000."""
    table = sinusoidal_positions(4097, 8, layout)
    sine = {"interleaved": 2}.get(layout, 1)
    exponent = 1 / 3 if layout == "halved_t2t" else 1 / 4
    assert math.isclose(table[4096, sine], math.sin(4096 / 10000**exponent), abs_tol=6e-8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_traced_position_looks_up_the_constant_table(layout):
    lookup = jax.jit(lambda position: sinusoidal_positions(16, 8, layout)[position])
    np.testing.assert_array_equal(lookup(jnp.int32(11)), sinusoidal_positions(16, 8, layout)[11])


def test_a_longer_table_begins_with_the_shorter_one():
    np.testing.assert_array_equal(
        sinusoidal_positions(40, 8, "interleaved")[:7], sinusoidal_positions(7, 8, "interleaved")
    )


def test_segment_positions_count_from_each_beginning():
    segments = np.array([[1, 1, 1, 2, 2, 3, 0, 0], [1] * 8, [0] * 8])
    expected = [[0, 1, 2, 0, 1, 0, 0, 1], list(range(8)), list(range(8))]
    np.testing.assert_array_equal(jax.jit(segment_positions)(segments), expected)


def rotation(positions: np.ndarray, size: int) -> np.ndarray:
    """The rotations as matrices [*positions, E, E] in float64: RoFormer's Eq. 15."""
    matrices = np.zeros((*positions.shape, size, size))
    for i in range(size // 2):
        angle = positions / 10000 ** (2 * i / size)
        cosine, sine = np.cos(angle), np.sin(angle)
        matrices[..., 2 * i, 2 * i], matrices[..., 2 * i, 2 * i + 1] = cosine, -sine
        matrices[..., 2 * i + 1, 2 * i], matrices[..., 2 * i + 1, 2 * i + 1] = sine, cosine
    return matrices


PACKED = np.array([[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]])  # positions of two rows


@pytest.mark.parametrize("positions", [np.arange(5), PACKED, np.array([7])], ids=["whole", "packed", "one position"])
def test_rotation_in_value_and_gradient(positions, dtype, assert_matches):
    """[B, H, T, E] by a table for all rows, by one for each row, and by one position for all."""
    size = 6
    sinusoids = sinusoidal_positions(8, size, "interleaved")[positions][..., None, :, :]
    matrices = rotation(positions, size)[..., None, :, :, :]
    assert_matches(
        lambda x: rotate(x, sinusoids),
        lambda x: (matrices @ x[..., None])[..., 0],
        [np.random.default_rng(0).normal(size=(2, 3, 5, size))],
        dtype,
        activations=1,
    )


def test_rotated_products_depend_on_the_difference_of_positions_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    table = sinusoidal_positions(300, 64, "interleaved")
    rotated = jax.jit(lambda x: rotate(jnp.broadcast_to(x, table.shape), table))
    queries, keys = np.asarray(rotated(query), np.float64), np.asarray(rotated(key), np.float64)
    products = queries @ keys.T
    for distance in (-200, -3, 0, 1, 17, 250):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=2e-5)
    assert np.ptp(products[0]) > 1  # and they do depend on it
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), np.linalg.norm(query), rtol=1e-6)

import re
from functools import partial

import numpy as np
import pytest

from transformer.analysis.figures import to_bytes
from transformer.analysis.figures.positions import curves, dot_products, heat_map
from transformer.ops.positions import sinusoidal_positions

LENGTH, WIDTH = 30, 16


def angles(layout: str) -> np.ndarray:
    exponent = np.arange(WIDTH // 2) / (WIDTH // 2 - (layout == "halved_t2t"))
    return np.arange(LENGTH)[:, None] / 10000**exponent


@pytest.mark.parametrize(("layout", "apart"), [("interleaved", 1), ("halved", 8), ("halved_t2t", 8)])
def test_curves_are_the_pairs_that_they_are_called(layout, apart):
    figure = curves(sinusoidal_positions(LENGTH, WIDTH, layout), layout)
    angle = angles(layout)
    assert len(figure.axes) == 4
    for axes, number in zip(figure.axes, (1, 2, 3, 4), strict=True):
        sine, cosine = axes.lines
        np.testing.assert_allclose(np.asarray(sine.get_ydata()), np.sin(angle[:, number]), atol=1e-6)
        np.testing.assert_allclose(np.asarray(cosine.get_ydata()), np.cos(angle[:, number]), atol=1e-6)
        found = re.fullmatch(r"dimensions (\d+) and (\d+): wavelength ([\d,.]+) positions", axes.get_title(loc="left"))
        assert found is not None
        first = number * (2 if layout == "interleaved" else 1)
        assert (int(found[1]), int(found[2])) == (first, first + apart)
        assert float(found[3].replace(",", "")) == pytest.approx(2 * np.pi / angle[1, number], abs=0.06)


def test_the_smallest_table_has_its_one_pair():
    figure = curves(sinusoidal_positions(2, 2, "interleaved"), "interleaved")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["dimensions 0 and 1: wavelength 6.3 positions"]


def test_heat_map_is_the_table():
    table = sinusoidal_positions(LENGTH, WIDTH, "halved")
    axes, _ = heat_map(table).axes
    (image,) = axes.images
    np.testing.assert_array_equal(np.asarray(image.get_array()), table)
    assert image.get_clim() == (-1, 1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("dimension", "position")


def test_dot_products_depend_on_the_distance_alone():
    left, right, _ = dot_products(sinusoidal_positions(LENGTH, WIDTH, "interleaved")).axes
    distance = np.arange(LENGTH)[:, None] - np.arange(LENGTH)
    expected = np.cos(distance[..., None] * angles("interleaved")[1]).sum(-1)
    np.testing.assert_allclose(np.asarray(left.images[0].get_array()), expected, atol=1e-5)
    for line, position in zip(right.lines, (0, 15, 29), strict=True):
        assert line.get_label() == f"from p = {position}"
        by_distance = np.cos(np.asarray(line.get_xdata())[:, None] * angles("interleaved")[1]).sum(-1)
        np.testing.assert_allclose(np.asarray(line.get_ydata()), by_distance, atol=1e-5)


def test_they_are_drawn():
    table = sinusoidal_positions(LENGTH, WIDTH, "interleaved")
    for draw in (partial(curves, table, "interleaved"), partial(heat_map, table), partial(dot_products, table)):
        assert to_bytes(draw, "svg").startswith(b"<?xml")

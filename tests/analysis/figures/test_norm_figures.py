from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from transformer.analysis.figures import to_bytes
from transformer.analysis.figures.norms import batch_mates, gradient_norms, seed_curves

STEPS = np.arange(1, 6)
RUNS = ["post", "pre", "post, warm-up", "pre, warm-up"]
LAYERS = ["encoder 0", "encoder 1", "decoder 0"]


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(0, 1, shape).astype(np.float32)


def draw_seeds() -> Figure:
    return seed_curves(STEPS, {"layer norm": values(3, 5), "batch norm": values(3, 5) + 1}, "loss")


def draw_mates() -> Figure:
    return batch_mates({"layer norm": np.ones(4), "batch norm": values(4)}, "log-probability")


def draw_gradients() -> Figure:
    return gradient_norms({name: values(5, 3) for name in RUNS}, LAYERS)


@pytest.mark.parametrize("draw", [draw_seeds, draw_mates, draw_gradients])
def test_they_are_drawn(draw: Callable[[], Figure]):
    assert to_bytes(draw, "png").startswith(b"\x89PNG")


def test_a_line_is_the_mean_of_the_seeds_and_the_band_their_range():
    (axes,) = draw_seeds().axes
    seeds = values(3, 5)
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), seeds.mean(0))
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert (band[:, 1].min(), band[:, 1].max()) == (seeds.min(), seeds.max())
    assert [text.get_text() for text in (axes.get_legend() or pytest.fail("no legend")).get_texts()] == [
        "layer norm",
        "batch norm",
    ]


def test_layers_go_upwards_and_steps_to_the_right():
    panels = draw_gradients().axes[: len(RUNS)]
    for axes in panels:
        np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), values(5, 3).T)
        assert axes.images[0].origin == "lower"
    for axes in panels[::2]:  # the left ones name them for their rows
        assert [label.get_text() for label in axes.get_yticklabels()] == LAYERS
    assert [axes.get_title() for axes in panels] == RUNS

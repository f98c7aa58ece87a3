from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from transformer.analysis.figures import to_bytes
from transformer.analysis.figures.learning import learning_curves, learning_rates, warmup
from transformer.analysis.history import Curve, History
from transformer.config import Config
from transformer.training.optimizer import paper_schedule, rates

PAIRS = ((512, 40), (512, 80), (256, 40), (64, 900))


def equation_3(d_model: int, warmup_steps: int) -> np.ndarray:
    step = np.arange(1, 201)
    return d_model**-0.5 * np.minimum(step**-0.5, step * warmup_steps**-1.5)


@pytest.fixture(scope="module")
def histories() -> list[History]:
    generator = np.random.default_rng(0)

    def curve(every: int) -> Curve:
        steps = np.arange(every, 201, every)
        return Curve(steps, generator.random(len(steps)))

    both = {"loss": curve(10), "learning_rate": curve(10), "validation_loss": curve(50), "validation_bleu": curve(50)}
    trained_only = {"loss": curve(20), "learning_rate": curve(20)}
    return [History("both", Config(), both), History("trained only", Config(), trained_only)]


def test_warmup_is_equation_3_and_the_legend_has_its_peak():
    (axes,) = warmup({pair: rates(paper_schedule(*pair), 200) for pair in PAIRS}).axes
    drawn = [np.array(line.get_xydata()) for line in axes.lines]
    for points, pair in zip((points for points in drawn if len(points) > 1), PAIRS, strict=True):
        np.testing.assert_allclose(points, np.transpose([np.arange(1, 201), equation_3(*pair)]), rtol=1e-6)
    peaks = [(points[0, 0], points[0, 1]) for points in drawn if len(points) == 1]
    assert peaks == [
        (step, pytest.approx(equation_3(width, step).max())) for width, step in PAIRS[:3]
    ]  # 900 is outside
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "d_model : warm-up steps  →  peak"
    assert [text.get_text() for text in legend.get_texts()] == [
        "512 : 40  →  0.00699",
        "512 : 80  →  0.00494",
        "256 : 40  →  0.00988",
        "64 : 900  →  0.00417",
    ]


def test_logged_rates_are_drawn_on_the_given_schedules(histories):
    schedules = [equation_3(512, 40), equation_3(256, 40)]
    (axes,) = learning_rates(histories, schedules).axes
    for number, (history, schedule) in enumerate(zip(histories, schedules, strict=True)):
        logged, planned = axes.lines[2 * number : 2 * number + 2]
        np.testing.assert_array_equal(logged.get_xydata(), np.transpose(history.curves["learning_rate"]))
        np.testing.assert_array_equal(planned.get_xydata(), np.transpose([np.arange(1, 201), schedule]))
        assert logged.get_color() == planned.get_color()


def test_learning_curves_are_what_was_logged(histories):
    figure = learning_curves(histories)
    losses, bleu = figure.axes
    drawn = [line.get_xydata() for line in (*losses.lines, *bleu.lines)]
    first, second = (history.curves for history in histories)
    for values, curve in zip(
        drawn, (first["loss"], first["validation_loss"], second["loss"], first["validation_bleu"]), strict=True
    ):
        np.testing.assert_array_equal(values, np.transpose(curve))
    assert (losses.get_ylabel(), bleu.get_ylabel()) == ("loss, nats per target token", "validation BLEU")
    forms, runs = ([text.get_text() for text in legend.get_texts()] for legend in figure.legends)
    assert (forms, runs) == (["training (as optimized)", "validation (unsmoothed)"], ["both", "trained only"])
    (alone,) = learning_curves(histories[1:]).axes  # no second plot if no run has BLEU
    assert len(alone.lines) == 1


def test_equal_curves_stay_visible(histories):
    """Each has dashes in the gaps of the other, and markers of another size."""
    first, alone = histories
    both = [first, replace(first, name="again"), alone]
    losses, bleu = learning_curves(both).axes
    (axes,) = learning_rates(both, [equation_3(512, 40)] * 2 + [equation_3(256, 40)]).axes
    # By run: training and validation loss; validation BLEU; logged and planned rate.
    for lines in (losses.lines[:4:2], losses.lines[1:4:2], bleu.lines, axes.lines[:4:2], axes.lines[1:4:2]):
        offsets, dashes = zip(*(vars(line)["_unscaled_dash_pattern"] for line in lines), strict=True)
        assert dashes[0] == dashes[1] == (4, 4)
        assert (offsets[1] - offsets[0]) % 8 == 4
        assert lines[0].get_color() != lines[1].get_color()
    assert bleu.lines[0].get_markersize() > bleu.lines[1].get_markersize()
    for line in (losses.lines[4], axes.lines[4], axes.lines[5]):
        assert line.get_linestyle() == "-"


def test_a_long_name_is_not_cut(histories):
    figure = learning_curves([replace(histories[0], name="a_long_way/" * 15)])
    figure.draw_without_rendering()
    box = figure.legends[1].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_they_are_drawn(histories):
    schedule = equation_3(512, 40)
    for draw in (
        partial(warmup, {(512, 40): schedule}),
        partial(learning_rates, histories, [schedule, schedule]),
        partial(learning_curves, histories),
    ):
        assert to_bytes(draw, "svg").startswith(b"<?xml")

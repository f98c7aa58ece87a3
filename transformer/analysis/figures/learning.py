"""Plots of learning-rate schedules, logged learning rates and learning curves.

`analysis` does not import `training`, so the values of schedules are arguments.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from transformer.analysis.figures import DASHES, PALETTE, line_style
from transformer.analysis.history import Curve, History
from transformer.shapes import Array


def warmup(rates: Mapping[tuple[int, int], Float[Array, " _"]]) -> Figure:
    """Plots the paper's learning-rate schedule with its peak (section 5.3, Eq. 3).

    peak = d_model ** -0.5 * warmup_steps ** -0.5, at step warmup_steps

    Args:
        rates: learning rates of the updates 1, 2 and so on, by (d_model, warmup_steps).
    """
    figure = Figure((6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, ((d_model, warmup_steps), values) in enumerate(rates.items()):
        peak = d_model**-0.5 * warmup_steps**-0.5
        steps = np.arange(1, len(values) + 1)
        # Schedules with the same d_model coincide after both warm-ups. Dashes keep each of them visible.
        style = {"color": PALETTE[number % len(PALETTE)], "linestyle": DASHES[number % len(DASHES)]}
        axes.plot(steps, values, **style, linewidth=1.8, label=f"{d_model} : {warmup_steps:,}  →  {peak:.3g}")
        if warmup_steps <= len(values):
            axes.plot(warmup_steps, peak, "o", color=style["color"], markersize=5)
    _finish(axes, "learning rate")
    axes.legend(frameon=False, title="d_model : warm-up steps  →  peak", alignment="left")
    return figure


def learning_rates(histories: Sequence[History], schedules: Sequence[Float[Array, " _"]]) -> Figure:
    """Plots the learning rate that each run logged, on the schedule of its config.

    Args:
        histories: what the runs have logged.
        schedules: for each run, the learning rates of the updates 1, 2 and so on.
    """
    figure = _figure(histories, 4.0)
    axes = figure.subplots()
    logged = {number: history.curves["learning_rate"] for number, history in enumerate(histories)}
    planned = {
        number: Curve(np.arange(1, len(schedule) + 1), np.asarray(schedule))
        for number, schedule in enumerate(schedules)
    }
    for number in range(len(histories)):
        for curves, form in ((logged, _LOGGED), (planned, _PLANNED)):
            axes.plot(*curves[number], **_style(number, curves, form))
    _finish(axes, "learning rate")
    _legend(figure, histories, {"logged": _LOGGED, "scheduled": _PLANNED})
    return figure


def learning_curves(histories: Sequence[History]) -> Figure:
    """Plots training and validation loss, and validation BLEU if a run logged it.

    Args:
        histories: what the runs have logged.
    """
    scored = any("validation_bleu" in history.curves for history in histories)
    figure = _figure(histories, 5.8 if scored else 4.0)
    grid = figure.subplots(1 + scored, 1, squeeze=False, sharex=True, height_ratios=(2, 1)[: 1 + scored])[:, 0]
    lines = (("loss", 0, _TRAINING), ("validation_loss", 0, _VALIDATION), ("validation_bleu", -1, _VALIDATION))
    drawn = {
        name: {number: run.curves[name] for number, run in enumerate(histories) if name in run.curves}
        for name, _, _ in lines
    }
    for number in range(len(histories)):
        for name, index, form in lines:
            if number in drawn[name]:
                grid[index].plot(*drawn[name][number], **_style(number, drawn[name], form))
    _finish(grid[0], "loss, nats per target token")
    if scored:
        _finish(grid[1], "validation BLEU")
        grid[0].set_xlabel("")
    _legend(figure, histories, {"training (as optimized)": _TRAINING, "validation (unsmoothed)": _VALIDATION})
    return figure


_LOGGED: dict[str, Any] = {"linewidth": 5, "alpha": 0.35, "marker": "o", "markersize": 5, "markeredgewidth": 0}
_PLANNED: dict[str, Any] = {"linewidth": 1.2}
_TRAINING: dict[str, Any] = {"linewidth": 1.0, "alpha": 0.55}
_VALIDATION: dict[str, Any] = {"linewidth": 1.8, "marker": "o", "markersize": 3.5}


def _style(number: int, curves: Mapping[int, Curve], form: Mapping[str, Any]) -> dict[str, Any]:
    """The style of a run's curve among the curves of other runs.

    Curves that coincide take turns in one dashed line.

    Args:
        number: the number of the run.
        curves: the curves of this and the other runs, by the number of the run.
        form: the style that all of the curves share.
    """
    alike = [other for other, curve in curves.items() if _coincide(curve, curves[number])]
    order, style = alike.index(number), line_style(number) | dict(form)
    if len(alike) > 1:
        style["linestyle"] = (-4 * order, (4, 4 * (len(alike) - 1)))
        if "marker" in form:  # the first one drawn is the largest, so that it shows around the others
            style["markersize"] += 3 * (len(alike) - 1 - order)
    return style


def _coincide(one: Curve, other: Curve) -> bool:
    """Whether a picture cannot tell two curves apart."""
    return np.array_equal(one.steps, other.steps) and np.allclose(one.values, other.values, rtol=1e-3, equal_nan=True)


def _figure(histories: Sequence[History], height: float) -> Figure:
    """A figure wide enough for the names of the runs, with a line for each."""
    longest = max(len(history.name) for history in histories)
    return Figure((max(6.4, 0.08 * longest + 1), height + 0.2 * len(histories)), layout="constrained")


def _finish(axes: Axes, label: str) -> None:
    axes.set(xlabel="step", ylabel=label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, histories: Sequence[History], forms: Mapping[str, Mapping]) -> None:
    """Adds the names of the runs, and in grey the meaning of the line styles."""
    runs = [Line2D([], [], **line_style(number), linewidth=2.5, label=run.name) for number, run in enumerate(histories)]
    greys = [Line2D([], [], color="#666666", **form, label=name) for name, form in forms.items()]
    figure.legend(handles=greys, loc="outside upper center", ncols=2, frameon=False)
    figure.legend(handles=runs, loc="outside lower center", frameon=False)

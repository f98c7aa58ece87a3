"""Plots that compare normalizations, by seed, by batch and by gradient norm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from transformer.analysis.figures import DASHES, PALETTE
from transformer.shapes import Array


def seed_curves(steps: Int[Array, " N"], curves: Mapping[str, Float[Array, "_ N"]], label: str) -> Figure:
    """Plots the mean over seeds as a line, and the range over seeds as a band.

    Args:
        steps: the steps of the values.
        curves: the values of each seed (rows), by the label of the curve.
        label: label of the values' axis.
    """
    figure = Figure((6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": PALETTE[number], "linestyle": DASHES[number % len(DASHES)]}
        values = np.asarray(values)
        axes.fill_between(steps, values.min(0), values.max(0), color=style["color"], alpha=0.25, linewidth=0)
        axes.plot(steps, values.mean(0), **style, linewidth=1.8, label=name)
    axes.set(xlabel="step", ylabel=label)
    axes.legend(frameon=False)
    _plain(axes)
    return figure


def batch_mates(values: Mapping[str, Float[Array, " _"]], label: str) -> Figure:
    """Plots a value of one sentence in different batches, one dot per batch.

    Args:
        values: the values, by the kind of normalization.
        label: label of the values' axis.
    """
    figure = Figure((6.4, 0.9 + 0.5 * len(values)), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(values.values()):
        axes.plot(row, np.full(len(row), number), "o", color=PALETTE[number], alpha=0.5, markersize=7, clip_on=False)
    axes.set_yticks(range(len(values)), list(values))
    axes.set(xlabel=label, ylim=(len(values) - 0.5, -0.5))
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    _plain(axes)
    return figure


def gradient_norms(norms: Mapping[str, Float[Array, "N L"]], layers: Sequence[str]) -> Figure:
    """Plots gradient norms by layer and step, one panel per run.

    Steps go to the right and layers upwards. All panels share one logarithmic scale.

    Args:
        norms: the norms of each layer at the steps 1, 2 and so on, by the name of the run. The number of runs is even.
        layers: the names of the layers, the first at the bottom.
    """
    count = len(next(iter(norms.values())))
    figure = Figure((6.8, 0.6 + (0.4 + 0.16 * len(layers)) * -(-len(norms) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(norms) // 2), 2, squeeze=False, sharex=True, sharey=True)
    every = np.concatenate([np.ravel(part) for part in norms.values()])
    scale: dict[str, Any] = {"cmap": "cividis", "norm": LogNorm(every.min(), every.max())}
    for axes, (name, part) in zip(grid.ravel(), norms.items(), strict=True):
        extent = (0.5, count + 0.5, -0.5, len(layers) - 0.5)
        image = np.asarray(part).T
        axes.imshow(image, origin="lower", aspect="auto", interpolation="nearest", extent=extent, **scale)
        axes.set_title(name, fontsize=9)
        axes.set_yticks(range(len(layers)), layers, fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    bar = figure.colorbar(ScalarMappable(**scale), ax=grid, aspect=30, format="{x:g}", label="gradient norm")
    bar.outline.set_visible(False)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)

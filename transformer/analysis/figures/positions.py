"""Plots of position encodings."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from transformer.analysis.figures import PALETTE
from transformer.shapes import Array


def curves(table: Float[Array, "T D"], layout: Literal["interleaved", "halved", "halved_t2t"]) -> Figure:
    """Plots some (sin, cos) pairs of dimensions with their wavelengths (section 3.5).

    Args:
        table: sinusoidal encodings of the positions 0 to T - 1, where T is at least 2.
        layout: the order of its dimensions.
    """
    half = table.shape[1] // 2
    dimensions = np.arange(2 * half)  # below as (sine, cosine), one pair per row
    pairs = dimensions.reshape(half, 2) if layout == "interleaved" else dimensions.reshape(2, half).T
    shown = pairs[sorted({half * eighths // 8 for eighths in (1, 2, 3, 4)})]
    figure = Figure((6.4, 0.5 + 1.15 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for axes, (sine, cosine) in zip(grid, shown, strict=True):
        axes.plot(table[:, sine], color=PALETTE[0], label="sin")
        axes.plot(table[:, cosine], color=PALETTE[1], linestyle="dashed", label="cos")
        wavelength = 2 * np.pi / np.arctan2(table[1, sine], table[1, cosine])
        axes.set_title(
            f"dimensions {sine} and {cosine}: wavelength {wavelength:,.1f} positions", fontsize=9, loc="left"
        )
        axes.set(xlim=(0, len(table) - 1), ylim=(-1.1, 1.1), yticks=(-1, 0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1].set_xlabel("position")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def heat_map(table: Float[Array, "T D"]) -> Figure:
    """Plots all encodings, with one row per position and one column per dimension.

    Args:
        table: the encodings of the positions 0 to T - 1.
    """
    limit = float(abs(table).max())
    figure = Figure((6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set(xlabel="dimension", ylabel="position")
    axes.locator_params(integer=True)
    figure.colorbar(image, label="value", aspect=30).outline.set_visible(False)
    return figure


def dot_products(table: Float[Array, "T D"]) -> Figure:
    """Plots the dot products of all positions, and by the distance between them.

    PE(p) . PE(q) = sum_i cos((p - q) / 10000^(2i/d)) for sinusoids, which depends only on p - q.

    Args:
        table: the encodings of the positions 0 to T - 1.
    """
    length = len(table)
    exact = np.asarray(table, np.float64)
    products = exact @ exact.T
    figure = Figure((7.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    image = left.imshow(products, cmap="cividis", interpolation="nearest")
    left.set(xlabel="position q", ylabel="position p", title="PE(p) · PE(q)")
    left.locator_params(integer=True)
    figure.colorbar(image, ax=left, shrink=0.8).outline.set_visible(False)
    # The lines coincide, so each is wider than the next.
    lines = ((0, PALETTE[4], 4.5), (length // 2, PALETTE[5], 2.8), (length - 1, PALETTE[6], 1.2))
    for position, colour, width in lines:
        distance = np.arange(length) - position
        right.plot(distance, products[position], color=colour, linewidth=width, label=f"from p = {position}")
    right.set(xlabel="distance q − p", title="by distance")
    right.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False)
    return figure

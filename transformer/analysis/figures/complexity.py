"""Log-log plots of what a layer costs."""

import numpy as np
from matplotlib.figure import Figure

from transformer.analysis.complexity.layers import LAYERS
from transformer.analysis.complexity.report import Report
from transformer.analysis.figures import PALETTE

MARKERS = ("o", "s", "^", "D", "v", "X")
UNITS = {"n": "positions", "d": "features per position"}


def draw(report: Report) -> Figure:
    """Plots forward operations and times of every layer over n and over d.

    The size that is not on the axis is the middle one. Each time is the median of its runs, with a bar from the fastest
    to the slowest run. The dotted line marks n = d, where n^2 d and n d^2 are equal.

    Args:
        report: the measurements.
    """
    settings = report.settings
    figure = Figure((8.4, 6.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex="col", sharey="row")
    sizes = {"n": sorted({*settings.lengths}), "d": sorted({*settings.widths})}
    for (above, below), axis, other in zip(grid.T, ("n", "d"), ("d", "n"), strict=True):
        ticks, fixed = sizes[axis], sizes[other][(len(sizes[other]) - 1) // 2]
        for layer, colour, marker in zip(LAYERS, PALETTE, MARKERS, strict=False):
            shown = [one for one in report.select(layer, "forward") if getattr(one, other) == fixed]
            times = np.array([(one.fastest, one.seconds, one.slowest) for one in shown]).T * 1e3
            style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.3, "label": layer}
            above.plot(ticks, [one.flops / 1e6 for one in shown], **style)
            below.errorbar(ticks, times[1], abs(np.diff(times, axis=0)), elinewidth=0.7, capsize=2, **style)
        for axes in (above, below):
            axes.axvline(fixed, color="#888888", linestyle="dotted", linewidth=1)
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(ticks, map(str, ticks))
            axes.minorticks_off()
            axes.yaxis.set_major_formatter("{x:,g}")
            axes.grid(color="#dddddd", linewidth=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        above.set_title(f"over {axis}, at {other} = {fixed} (dotted: n = d)", fontsize=9)
        below.set_xlabel(f"{axis} ({UNITS[axis]})")
    grid[0, 0].set_ylabel("millions of operations (counted by XLA)")
    grid[1, 0].set_ylabel("median time in ms (bar: fastest to slowest)")
    figure.suptitle(f"One layer forward: {settings.dtype}, {report.device}", fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure

"""Pictures of attention weights, as heat maps of heads or as lines from one word."""

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from transformer.analysis.attention import Attention
from transformer.analysis.figures import line_style
from transformer.analysis.page import LABELS, Start


def draw(attention: Attention, shown: Start) -> Figure:
    """Draws the lines of a word if one is selected, and heat maps otherwise.

    Args:
        attention: the attention weights.
        shown: the part of them to show.

    Raises:
        InputError: there is no such layer, head or word.
    """
    sides = attention.joined() if shown.joined else attention
    return heat_maps(sides, shown) if shown.word is None else lines(sides, shown, shown.word)


def heat_maps(attention: Attention, shown: Start) -> Figure:
    """Draws one heat map per layer (row of the grid) and head (column of the grid).

    In each map, rows are queries and columns are keys.

    Args:
        attention: the attention weights.
        shown: the kind, and the layer and head if not all are shown.
    """
    weights = attention.select(shown.kind, shown.layer, shown.head)
    layers, heads, Q, K = weights.shape
    queries, keys = attention.queries(shown.kind).tokens, attention.keys(shown.kind).tokens
    size = 0.2 if layers * heads == 1 else 0.115  # inches per square
    label = max(map(len, queries + keys)) * 0.4 * size + 0.3
    figure = Figure((heads * (K * size + 0.15) + label + 1, layers * (Q * size + 0.3) + label), layout="constrained")
    # A rollout spreads its weights over many keys and would be hardly visible on a scale up to 1.
    scale: dict[str, Any] = {"cmap": "Blues", "norm": Normalize(0, weights.max() if shown.kind == "rollout" else 1)}
    grid = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True)
    for row, layer in zip(grid, range(layers), strict=True):
        for axes, head in zip(row, range(heads), strict=True):
            axes.imshow(weights[layer, head], interpolation="nearest", **scale)
            numbers = (layer if shown.layer is None else shown.layer, head if shown.head is None else shown.head)
            axes.set_title(_title(shown, *numbers), fontsize=8)
            axes.set_xticks(range(K), keys, rotation=90, fontsize=size * 45)
            axes.set_yticks(range(Q), queries, fontsize=size * 45)
            axes.tick_params(length=0)
            axes.spines[:].set(color="#888888", linewidth=0.5)
            axes.label_outer()
    shrink = min(1.0, 3 / figure.get_figheight())
    bar = figure.colorbar(ScalarMappable(**scale), ax=grid, aspect=30, shrink=shrink, label="attention weight")
    bar.outline.set_visible(False)
    figure.suptitle(f"{LABELS[shown.kind].capitalize()}: rows are queries, columns are keys", fontsize=10)
    return figure


def lines(attention: Attention, shown: Start, word: str) -> Figure:
    """Draws lines from one word to what it attends to, with one colour per head.

    As in the paper's figures 3 and 4 ("Attention Visualizations"). Stronger lines have larger attention weights.

    Args:
        attention: the attention weights.
        shown: the kind, the layer (None: the last one), and the head if not all are shown.
        word: the query.
    """
    layer = len(attention.weights[shown.kind]) - 1 if shown.layer is None else shown.layer
    (weights,) = attention.select(shown.kind, layer, shown.head)
    query = attention.find(word, shown.kind)
    queries, keys = attention.queries(shown.kind).tokens, attention.keys(shown.kind).tokens
    longest = max(len(queries), len(keys))
    figure = Figure((0.27 * longest + 0.6, 3.9), layout="constrained")
    axes: Axes = figure.subplots()
    spread = 0.5 / len(weights)  # so that the heads' lines end next to each other
    for row, of_head in enumerate(weights):
        head = row if shown.head is None else shown.head
        style = line_style(head)
        offset = (row - (len(weights) - 1) / 2) * spread
        for key in np.flatnonzero(of_head[query] >= 0.01):
            weight = float(of_head[query, key])
            ends = ([query + offset, key + offset], [0, 1])
            axes.plot(*ends, **style, alpha=0.1 + 0.9 * weight, linewidth=0.4 + 3 * weight, solid_capstyle="butt")
        axes.plot([], [], **style, linewidth=2.5, label=_title(shown, layer, head).split(", ")[-1])
    _words(axes, queries, -0.04, "top", {query})
    _words(axes, keys, 1.04, "bottom", {*np.flatnonzero((weights[:, query] >= 0.3).any(0)).tolist()})
    axes.set(xlim=(-0.7, longest - 0.3), ylim=(0, 1))
    axes.axis("off")
    name = _title(shown, layer, None)
    title = f"{LABELS[shown.kind].capitalize()}, {name}: queries below, keys above"
    figure.legend(loc="outside lower center", ncols=min(8, len(weights)), frameon=False, title=title, title_fontsize=9)
    return figure


def _words(axes: Axes, words: list[str], height: float, where: Literal["top", "bottom"], bold: set[int]) -> None:
    for index, word in enumerate(words):
        weight, colour = ("bold", "black") if index in bold else ("normal", "#555555")
        axes.text(index, height, word, rotation=90, ha="center", va=where, weight=weight, color=colour, clip_on=False)


def _title(shown: Start, layer: int, head: int | None) -> str:
    if shown.kind == "rollout":
        return "all layers" if head is None else "all layers, mean of the heads"
    return f"layer {layer}" if head is None else f"layer {layer}, head {head}"

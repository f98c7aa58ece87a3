"""Pictures of where a model looks: heat maps of heads, and the lines of a word."""

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
    """The lines of a word where one is named, else heat maps.

    Args:
        attention: what is shown.
        shown: which part of it.

    Raises: InputError if there is no such layer, head or word.
    """
    pieces = attention.joined() if shown.joined else attention
    return heat_maps(pieces, shown) if shown.word is None else lines(pieces, shown, shown.word)


def heat_maps(attention: Attention, shown: Start) -> Figure:
    """A grid of heat maps: a row for each layer, a column for each head; the row of a map looks at its column.

    Args:
        attention: what is shown.
        shown: the kind, and the layer and head unless all are shown.
    """
    weights = attention.select(shown.kind, shown.layer, shown.head)
    layers, heads, Q, K = weights.shape
    queries, keys = attention.queries(shown.kind).tokens, attention.keys(shown.kind).tokens
    size = 0.2 if layers * heads == 1 else 0.115  # of a square, in inches
    label = max(map(len, queries + keys)) * 0.4 * size + 0.3
    figure = Figure((heads * (K * size + 0.15) + label + 1, layers * (Q * size + 0.3) + label), layout="constrained")
    # All layers together spread the weights: on the scale of one head, a rollout would be hardly seen.
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
    bar = figure.colorbar(
        ScalarMappable(**scale), ax=grid, aspect=30, shrink=min(1.0, 3 / figure.get_figheight()), label="weight"
    )
    bar.outline.set_visible(False)
    figure.suptitle(f"{LABELS[shown.kind].capitalize()}: the row looks at the column", fontsize=10)
    return figure


def lines(attention: Attention, shown: Start, word: str) -> Figure:
    """The lines of one word, a colour for each head, as in the paper's figures 3 and 4 ("Attention Visualizations").

    Args:
        attention: what is shown.
        shown: the kind, the layer (None: the last one), and the head unless all are shown.
        word: the word that looks.
    """
    layer = len(attention.weights[shown.kind]) - 1 if shown.layer is None else shown.layer
    (weights,) = attention.select(shown.kind, layer, shown.head)
    place = attention.find(word, shown.kind)
    queries, keys = attention.queries(shown.kind).tokens, attention.keys(shown.kind).tokens
    longest = max(len(queries), len(keys))
    figure = Figure((0.27 * longest + 0.6, 3.9), layout="constrained")
    axes: Axes = figure.subplots()
    spread = 0.5 / len(weights)  # of the heads, which end beside one another
    for row, of_head in enumerate(weights):
        head = row if shown.head is None else shown.head
        style = line_style(head)
        offset = (row - (len(weights) - 1) / 2) * spread
        for key in np.flatnonzero(of_head[place] >= 0.01):
            weight = float(of_head[place, key])
            ends = ([place + offset, key + offset], [0, 1])
            axes.plot(*ends, **style, alpha=0.1 + 0.9 * weight, linewidth=0.4 + 3 * weight, solid_capstyle="butt")
        axes.plot([], [], **style, linewidth=2.5, label=_title(shown, layer, head).split(", ")[-1])
    _words(axes, queries, -0.04, "top", {place})
    _words(axes, keys, 1.04, "bottom", {*np.flatnonzero((weights[:, place] >= 0.3).any(0)).tolist()})
    axes.set(xlim=(-0.7, longest - 0.3), ylim=(0, 1))
    axes.axis("off")
    name = _title(shown, layer, None)
    title = f"{LABELS[shown.kind].capitalize()}, {name}: below looks at above"
    figure.legend(loc="outside lower center", ncols=min(8, len(weights)), frameon=False, title=title, title_fontsize=9)
    return figure


def _words(axes: Axes, words: list[str], height: float, where: Literal["top", "bottom"], bold: set[int]) -> None:
    for place, word in enumerate(words):
        weight, colour = ("bold", "black") if place in bold else ("normal", "#555555")
        axes.text(place, height, word, rotation=90, ha="center", va=where, weight=weight, color=colour, clip_on=False)


def _title(shown: Start, layer: int, head: int | None) -> str:
    if shown.kind == "rollout":
        return "all layers" if head is None else "all layers, mean of the heads"
    return f"layer {layer}" if head is None else f"layer {layer}, head {head}"

"""An HTML page with the attention weights of every kind, layer and head."""

import base64
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from transformer.analysis.attention import Attention, Kind

LABELS: dict[Kind, str] = {
    "encoder": "encoder self-attention",
    "decoder": "decoder self-attention",
    "cross": "cross-attention",
    "rollout": "encoder rollout",
}


@dataclass(frozen=True)
class Start:
    """What a page shows first, or what a picture shows."""

    kind: Kind = "cross"
    """The kind of attention."""
    layer: int | None = None
    """The layer, counted from 0. None: the last one; in heat maps all of them."""
    head: int | None = None
    """The only head shown, counted from 0. None: all heads."""
    joined: bool = False
    """Whether tokens are joined into words."""
    word: str | None = None
    """The query token that is selected."""


def page(attention: Attention, start: Start) -> str:
    """Renders attention weights as one self-contained HTML page.

    The page needs no network and no other file. Weights are rounded to multiples of 1/255. All text is embedded as JSON
    in which every "<" is escaped, so no token can act as markup. The page's script turns it into text nodes only.

    Args:
        attention: the weights to show.
        start: what to show first.

    Raises:
        InputError: there is no such layer, head or word.
    """
    weights = attention.select(start.kind, start.layer, start.head)
    shown = attention.joined() if start.joined else attention
    data = {
        "sides": {"source": attention.source._asdict(), "target": attention.target._asdict()},
        "kinds": [_kind(attention, kind) for kind in LABELS],
        "start": {
            "kind": start.kind,
            "layer": len(attention.weights[start.kind]) - 1 if start.layer is None else start.layer,
            "heads": [*range(weights.shape[1])] if start.head is None else [start.head],
            "joined": start.joined,
            "query": None if start.word is None else shown.find(start.word, start.kind),
        },
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    template = resources.files("transformer.analysis").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace(">DATA<", f">{text}<")


def _kind(attention: Attention, kind: Kind) -> dict[str, Any]:
    weights = attention.weights[kind]
    return {
        "name": kind,
        "label": LABELS[kind],
        "queries": "source" if attention.queries(kind) is attention.source else "target",
        "keys": "source" if attention.keys(kind) is attention.source else "target",
        "layers": weights.shape[0],
        "heads": weights.shape[1],
        "weights": base64.b64encode(np.round(weights * 255).astype(np.uint8).tobytes()).decode(),
    }

"""One self-contained page that shows every layer, head and kind of an attention: no network, no other file."""

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
    "cross": "decoder to encoder",
    "rollout": "encoder rollout",
}


@dataclass(frozen=True)
class Start:
    """What the page shows first."""

    kind: Kind = "cross"
    """The kind of attention."""
    layer: int | None = None
    """The layer; None: the last one."""
    head: int | None = None
    """The only head that is on; None: all are."""
    joined: bool = False
    """Whether tokens are joined into words."""
    word: str | None = None
    """The word that is shown as if it had been pointed at."""


def page(attention: Attention, start: Start) -> str:
    """The page, as HTML.

    Weights are kept in steps of 1/255. All text travels as JSON in which no "<" stands for itself, so that none of it
    can be taken for markup, and the page's program makes text nodes of it.

    Args:
        attention: what is shown.
        start: what is shown first.

    Raises: InputError if there is no such layer, head or word.
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

"""Statistics of each attention head, and what the loss gains from it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from transformer.analysis.attention import HEAD_KINDS, HeadKind, corpus_weights
from transformer.data.corpus import Pairs
from transformer.inference.translator import Translator
from transformer.shapes import Params

_STACK = {"encoder": "encoder", "decoder": "decoder", "cross": "decoder"}
_ATTENTION = {"encoder": "self_attention", "decoder": "self_attention", "cross": "cross_attention"}
LEGEND = """\
entropy   of the attention weights, in nats (0: all weight on one token; log K: evenly on K tokens)
distance  between query and key, in tokens, weighted by the attention weights
previous  attention weight on the token before the query
same      attention weight on the query's own token
next      attention weight on the token after the query
boundary  attention weight on the source's end token, or in the decoder on the start token
ablation  increase of the loss without the head, in nats per target token"""
"""What the columns of `to_text` mean."""


@dataclass(frozen=True)
class Head:
    """Statistics of one attention head, averaged over all query tokens.

    Attention weights are from 0 to 1.
    """

    kind: HeadKind
    """`encoder` and `decoder` are self-attention, `cross` is the decoder's attention to the encoder."""
    layer: int
    """Counted from 0."""
    head: int
    """Counted from 0."""
    ablation: float
    """Increase of the loss when the head's output is set to zero, in nats per target token (Michel et al. 2019)."""
    entropy: float
    """-sum w log w of the attention weights w, in nats. 0: all weight on one token; log K: evenly on K tokens."""
    boundary: float
    """Attention weight on the source's end token, or in the decoder's self-attention on the start token."""
    distance: float | None = None
    """sum w |query - key|, in tokens. None for cross-attention, as are the weights below."""
    previous: float | None = None
    """Attention weight on the token before the query. The first token has none and counts as 0."""
    same: float | None = None
    """Attention weight on the query's own token."""
    next: float | None = None
    """Attention weight on the token after the query. The last token has none and counts as 0."""


def measure(run: Translator, pairs: Pairs) -> Iterator[Head]:
    """Measures each head of a run on a corpus, and yields them one by one.

    Args:
        run: a trained model.
        pairs: sentences and their translations.

    Raises:
        InputError: there are no pairs, or a side has more tokens than the model has positions.
    """
    sums: dict[tuple[HeadKind, str], Any] = defaultdict(float)
    tokens: dict[HeadKind, int] = defaultdict(int)
    for batch, weights in corpus_weights(run, pairs):
        source, target = np.asarray(batch.source_mask), np.asarray(batch.target_mask)
        for kind in HEAD_KINDS:
            mask = source if kind == "encoder" else target
            boundary = np.zeros(len(target), int) if kind == "decoder" else source.sum(1) - 1
            tokens[kind] += int(mask.sum())
            for name, values in describe(weights[kind], boundary, self_attention=kind != "cross").items():
                sums[kind, name] += np.where(mask[:, None], values, 0).sum((1, 3))
    loss = run.loss(pairs.sources, pairs.targets)
    for kind in HEAD_KINDS:
        means = {name: total / tokens[kind] for (of_kind, name), total in sums.items() if of_kind == kind}
        for layer, head in np.ndindex(means["entropy"].shape):
            without = replace(run, params=ablate(run.params, kind, layer, head, run.model.config.num_heads))
            ablation = without.loss(pairs.sources, pairs.targets) - loss
            numbers: dict[str, Any] = {name: float(mean[layer, head]) for name, mean in means.items()}
            yield Head(kind=kind, layer=layer, head=head, ablation=ablation, **numbers)


def describe(
    weights: Float[np.ndarray, "L B H Q K"], boundary: Int[np.ndarray, " B"], *, self_attention: bool
) -> dict[str, Float[np.ndarray, "L B H Q"]]:
    """Statistics that follow from the attention weights alone, for each query token.

    They are named like the fields of `Head`.

    Args:
        weights: the weights of each layer, sentence and head. Weights on padding are 0.
        boundary: the index of each sentence's boundary token among the keys.
        self_attention: whether queries and keys are the same tokens, so that they have a distance.
    """
    weights = weights.astype(np.float64)
    found = {
        "entropy": -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1),
        "boundary": np.take_along_axis(weights, boundary[None, :, None, None, None], -1)[..., 0],
    }
    if self_attention:
        positions = np.arange(weights.shape[-1])
        offset = positions - positions[:, None]  # key minus query
        found["distance"] = (weights * abs(offset)).sum(-1)
        for name, wanted in (("previous", -1), ("same", 0), ("next", 1)):
            found[name] = (weights * (offset == wanted)).sum(-1)
    return found


def ablate(params: Params, kind: HeadKind, layer: int, head: int, num_heads: int) -> Params:
    """The parameters of the model without one head.

    MultiHead = Concat(head_1, ..., 0, ..., head_h) W^O   (section 3.2.2)

    Setting a head's output to zero equals setting the rows of W^O that it is multiplied with to zero.

    Args:
        params: the parameters of the model, which are left unchanged.
        kind: the kind of attention.
        layer: the layer, counted from 0.
        head: the head, counted from 0.
        num_heads: the model's number of heads.
    """
    path = ("params", _STACK[kind], "layers", _ATTENTION[kind], "output", "kernel")

    def zeroed(node: Any, names: tuple[str, ...]) -> Any:
        if names:
            return {**node, names[0]: zeroed(node[names[0]], names[1:])}
        size = node.shape[1] // num_heads
        return jnp.asarray(node).at[layer, head * size : (head + 1) * size].set(0)

    return zeroed(params, path)


def to_text(heads: Sequence[Head]) -> str:
    """A table with one line per head; `LEGEND` explains its columns."""
    lines = ["attention  layer  head  entropy  distance  previous   same   next  boundary  ablation"]
    for one in heads:
        shares = ((one.distance, 8), (one.previous, 8), (one.same, 5), (one.next, 5))
        cells = ["-".rjust(width) if value is None else f"{value:{width}.2f}" for value, width in shares]
        lines.append(
            f"{one.kind:<9}  {one.layer:>5}  {one.head:>4}  {one.entropy:7.2f}  {'  '.join(cells)}  "
            f"{one.boundary:8.2f}  {one.ablation:+8.4f}"
        )
    return "\n".join(lines)

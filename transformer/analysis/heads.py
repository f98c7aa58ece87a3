"""What each attention head does, in numbers: where it looks, and what it is worth."""

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


@dataclass(frozen=True)
class Head:
    """One head, on the mean of all tokens that look. Shares and weights are from 0 to 1."""

    kind: HeadKind
    """The encoder's self-attention, the decoder's, or the decoder's attention to the encoder."""
    layer: int
    """Counted from 0."""
    head: int
    """Counted from 0."""
    ablation: float
    """How much the loss grows when the head's output is zero, in nats per target token (Michel et al. 2019)."""
    entropy: float
    """-sum w log w, in nats: 0 looks at one token, log K at K tokens evenly."""
    boundary: float
    """Weight on the source's end token; in the decoder's self-attention on the start token, which is its first."""
    distance: float | None = None
    """sum w |query - key|, in tokens; None for cross-attention, like the shares below."""
    previous: float | None = None
    """Weight on the token before; the first token has none and counts as 0."""
    same: float | None = None
    """Weight on the token itself."""
    next: float | None = None
    """Weight on the token behind; the last one has none and counts as 0."""


def measure(run: Translator, pairs: Pairs) -> Iterator[Head]:
    """What each head of a run does on a corpus: each as soon as it is known.

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
    """For each token that looks, the numbers of `Head` that follow from its weights alone.

    Args:
        weights: of each sentence, layer and head; padding that is looked at has weight 0.
        boundary: the place of each sentence's boundary token.
        self_attention: whether query and key count the same tokens, so that there is a distance between them.
    """
    weights = weights.astype(np.float64)
    found = {
        "entropy": -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1),
        "boundary": np.take_along_axis(weights, boundary[None, :, None, None, None], -1)[..., 0],
    }
    if self_attention:
        places = np.arange(weights.shape[-1])
        offset = places - places[:, None]  # of the key from the query
        found["distance"] = (weights * abs(offset)).sum(-1)
        for name, wanted in (("previous", -1), ("same", 0), ("next", 1)):
            found[name] = (weights * (offset == wanted)).sum(-1)
    return found


def ablate(params: Params, kind: HeadKind, layer: int, head: int, num_heads: int) -> Params:
    """The parameters of the same model without one head: MultiHead = Concat(..., 0, ...) W^O (section 3.2.2).

    A zero in place of the head's output is the same as zeros in the rows of W^O that it meets.

    Args:
        params: the model's.
        kind: the head's.
        layer: the head's, counted from 0.
        head: counted from 0.
        num_heads: of the model.
    """
    path = ("params", _STACK[kind], "layers", _ATTENTION[kind], "output", "kernel")

    def zeroed(node: Any, names: tuple[str, ...]) -> Any:
        if names:
            return {**node, names[0]: zeroed(node[names[0]], names[1:])}
        size = node.shape[1] // num_heads
        return jnp.asarray(node).at[layer, head * size : (head + 1) * size].set(0)

    return zeroed(params, path)


def to_text(heads: Sequence[Head]) -> str:
    """A table with a line for each head."""
    lines = ["attention  layer  head  entropy  distance  previous   same   next  boundary  ablation"]
    for one in heads:
        shares = ((one.distance, 8), (one.previous, 8), (one.same, 5), (one.next, 5))
        cells = ["-".rjust(width) if value is None else f"{value:{width}.2f}" for value, width in shares]
        lines.append(
            f"{one.kind:<9}  {one.layer:>5}  {one.head:>4}  {one.entropy:7.2f}  {'  '.join(cells)}  "
            f"{one.boundary:8.2f}  {one.ablation:+8.4f}"
        )
    return "\n".join(lines)

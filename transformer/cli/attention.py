"""`transformer attention`: where a run looks."""

from dataclasses import dataclass
from typing import Literal

from transformer.cli.decoding import DecodingOptions, load_translator, parse
from transformer.errors import InputError


@dataclass(frozen=True)
class AttentionOptions(DecodingOptions):
    """Show where a run looks: for each piece of a sentence, the pieces that it gives the most weight."""

    source: str | None = None
    """The source sentence."""
    target: str | None = None
    """Its translation; the run's own unless given."""
    kind: Literal["encoder", "decoder", "cross"] = "cross"
    """The encoder's self-attention, the decoder's, or the decoder's attention to the encoder."""
    layer: int | None = None
    """Layer, counted from 0; the last one unless given."""
    head: int | None = None
    """Head, counted from 0; the mean of all unless given."""


def main(arguments: list[str]) -> None:
    """Show where a run looks."""
    options = parse(AttentionOptions, arguments, "attention")
    if options.source is None or not options.source.strip():
        raise InputError("A sentence is needed to look at: give it with --source.")
    run = load_translator(options)
    from transformer.analysis import attention as analysis

    target = run.translate(options.source, options.search) if options.target is None else options.target
    weights, queries, keys = analysis.attention(run, options.source, target, options.kind)
    for name, number, count in (("layer", options.layer, len(weights)), ("head", options.head, weights.shape[1])):
        if number is not None and not 0 <= number < count:
            raise InputError(f"--{name} {number} is not there: this run has {count}, counted from 0.")
    layer = weights[-1 if options.layer is None else options.layer]
    print(analysis.strongest(layer.mean(0) if options.head is None else layer[options.head], queries, keys))

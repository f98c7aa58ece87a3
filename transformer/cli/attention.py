"""`transformer attention`: where a run looks."""

import sys
from dataclasses import dataclass
from typing import Literal

from transformer.cli.decoding import DecodingOptions, load_translator, parse
from transformer.errors import InputError
from transformer.files import check_writable

# The paper's figures 3 and 4 ("Attention Visualizations"): a word of the encoder's input, and its sentence.
FIGURES = {
    "making": "It is in this spirit that a majority of American governments have passed new laws since 2009 making the "
    "registration or voting process more difficult.",
    "its": "The Law will never be perfect, but its application should be just - this is what we are missing, in my "
    "opinion.",
}


@dataclass(frozen=True)
class AttentionOptions(DecodingOptions):
    """Show where a run looks: for each piece of a sentence, the pieces that it gives the most weight."""

    source: str | None = None
    """The source sentence."""
    target: str | None = None
    """Its translation; the run's own unless given."""
    output: str | None = None
    """Write a page with every kind, layer and head (.html), or a picture (.png, .svg), instead of printing text."""
    figure: Literal["making", "its"] | None = None
    """The paper's figure 3 (making ... more difficult) or 4 (its, application) of this run: short for --kind encoder
    --words --word making (or its) and the paper's sentence as --source."""
    kind: Literal["encoder", "decoder", "cross", "rollout"] | None = None
    """The encoder's self-attention, the decoder's, the decoder's attention to the encoder (unless given), or all of the
    encoder's layers multiplied (Abnar & Zuidema 2020)."""
    layer: int | None = None
    """Layer, counted from 0. Unless given: the last one, and in heat maps all."""
    head: int | None = None
    """Head, counted from 0. Unless given: all, and in text their mean."""
    word: str | None = None
    """Show only where this word looks, with each head by itself."""
    words: bool = False
    """Join the pieces of a word: weights are summed over them where they are looked at, averaged where they look."""


def main(arguments: list[str]) -> None:
    """Show where a run looks."""
    options = parse(AttentionOptions, arguments, "attention")
    source = FIGURES[options.figure] if options.source is None and options.figure else options.source
    if source is None or not source.strip():
        raise InputError("A sentence is needed to look at: give it with --source.")
    from transformer.analysis.attention import strongest
    from transformer.analysis.view import check_suffix, view

    if options.output is not None:  # what cannot be written is said before the run is loaded
        check_suffix(options.output)
        check_writable(options.output)
        if not options.output.endswith(".html"):
            import transformer.analysis.figures  # noqa: F401  says so if matplotlib is missing
    run = load_translator(options)
    shown = view(run, source, options.target, options.search)
    kind = options.kind or ("encoder" if options.figure else "cross")
    word, joined = options.word or options.figure, options.words or options.figure is not None
    if options.output is not None:
        shown.save(options.output, kind=kind, layer=options.layer, head=options.head, joined=joined, word=word)
        if not options.output.endswith(".html"):
            from transformer.analysis.figures import missing_glyphs

            if missing := missing_glyphs("".join((*shown.queries(kind).tokens, *shown.keys(kind).tokens))):
                print(f"The pictures' font does not have {missing}: a page (.html) shows them.", file=sys.stderr)
        return
    pieces = shown.joined() if joined else shown
    layer = len(pieces.weights[kind]) - 1 if options.layer is None else options.layer
    (weights,) = pieces.select(kind, layer, options.head)
    queries, keys = pieces.queries(kind).tokens, pieces.keys(kind).tokens
    if word is None:
        print(strongest(weights.mean(0), queries, keys))
    else:
        heads = [f"head {head}" for head in range(len(weights))] if options.head is None else [f"head {options.head}"]
        print(strongest(weights[:, pieces.find(word, kind)], heads, keys))

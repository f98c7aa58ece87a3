"""The `transformer attention` command, which shows attention weights."""

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
    """Show the attention weights of one sentence pair as text, page or picture.

    As text, each query token is followed by the three keys that it attends to most. --output writes an interactive page
    with all layers and heads, or a picture.

        transformer attention runs/quickstart --source "The old dog sleeps."
        transformer attention runs/quickstart --figure its --output its.html
    """

    source: str | None = None
    """The source sentence. Required, except with --figure."""
    target: str | None = None
    """Its translation, which the decoder reads. By default the run translates the source."""
    output: str | None = None
    """Write to this file instead of printing text: a page with all kinds, layers and heads (.html), or a picture
    (.png, .svg)."""
    figure: Literal["making", "its"] | None = None
    """Reproduce the paper's figure 3 (`making`) or figure 4 (`its`) with this run. Short for --kind encoder --words
    --word making (or its), with the paper's sentence as --source."""
    kind: Literal["encoder", "decoder", "cross", "rollout"] | None = None
    """`encoder` and `decoder`: self-attention; `cross`: the decoder's attention to the encoder; `rollout`: the product
    of all encoder layers (Abnar & Zuidema 2020). The default is `cross`, or `encoder` with --figure."""
    layer: int | None = None
    """Layer, counted from 0. By default the last one; heat maps show all layers."""
    head: int | None = None
    """Head, counted from 0. By default all heads; text shows their mean."""
    word: str | None = None
    """Show only what this word attends to, separately for each head."""
    words: bool = False
    """Join tokens into words: weights are summed over the tokens of a key and averaged over the tokens of a query."""


def main(arguments: list[str]) -> None:
    """Shows the attention weights of one sentence pair."""
    options = parse(AttentionOptions, arguments, "attention")
    source = FIGURES[options.figure] if options.source is None and options.figure else options.source
    if source is None or not source.strip():
        raise InputError("The source sentence is missing. Give it with --source.")
    from transformer.analysis.attention import strongest
    from transformer.analysis.page import LABELS
    from transformer.analysis.view import check_suffix, view

    if options.output is not None:  # refuse a bad --output before the run is loaded
        check_suffix(options.output)
        check_writable(options.output)
        if not options.output.endswith(".html"):
            import transformer.analysis.figures  # noqa: F401  raises InputError if matplotlib is missing
    run = load_translator(options)
    shown = view(run, source, options.target, options.search)
    kind = options.kind or ("encoder" if options.figure else "cross")
    word, joined = options.word or options.figure, options.words or options.figure is not None
    if options.output is not None:
        shown.save(options.output, kind=kind, layer=options.layer, head=options.head, joined=joined, word=word)
        if not options.output.endswith(".html"):
            from transformer.analysis.figures import missing_glyphs

            if missing := missing_glyphs("".join((*shown.queries(kind).tokens, *shown.keys(kind).tokens))):
                print(f"The picture's font has no glyphs for {missing}. Use --output FILE.html.", file=sys.stderr)
        return
    sides = shown.joined() if joined else shown
    layer = len(sides.weights[kind]) - 1 if options.layer is None else options.layer
    (weights,) = sides.select(kind, layer, options.head)
    queries, keys = sides.queries(kind).tokens, sides.keys(kind).tokens
    where = LABELS[kind] if kind == "rollout" else f"{LABELS[kind]}, layer {layer}"
    numbers = [*range(len(weights))] if options.head is None else [options.head]
    if word is not None:
        of_word = weights[:, sides.find(word, kind)]
        print(f"{where}: the keys that {word} attends to most, and their attention weights")
        print(strongest(of_word, [f"head {number}" for number in numbers], keys))
        return
    heads = f"mean of {len(numbers)} heads" if len(numbers) > 1 else f"head {numbers[0]}"
    print(
        f"{where}{'' if kind == 'rollout' else f', {heads}'}: the keys that each query attends to most, and their "
        "attention weights"
    )
    print(strongest(weights.mean(0), queries, keys))

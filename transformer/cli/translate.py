"""`transformer translate`: standard input to standard output, one line out for each line in."""

import sys

import tyro

from transformer.cli.decoding import DecodingOptions, configure_search, load_translator


def main(arguments: list[str]) -> None:
    """Translate standard input to standard output: one line out for each line in."""
    options = tyro.cli(
        DecodingOptions,
        args=arguments,
        prog="transformer translate",
        description="Translate standard input to standard output, one line out for each line in.",
    )
    translator = load_translator(options)
    from transformer.data.text import decode_lines

    sentences = decode_lines(sys.stdin.buffer.read(), "standard input")
    for line in translator.translate(sentences, configure_search(translator.config.search, options)):
        sys.stdout.buffer.write(line.encode() + b"\n")

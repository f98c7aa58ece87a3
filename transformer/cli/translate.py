"""`transformer translate`: standard input to standard output, one line out for each line in."""

import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, tee
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformer.cli.decoding import DecodingOptions, load_translator, parse
from transformer.errors import InputError

if TYPE_CHECKING:
    from transformer.inference.translation import Translation
    from transformer.inference.translator import Translator


@dataclass(frozen=True)
class TranslationOptions(DecodingOptions):
    """Translate standard input to standard output, one line out for each line in."""

    jsonl: bool = False
    """Write a JSON object for each line: the source, and its translations with their scores, best first."""
    alignments: bool = False
    """With --jsonl: for each piece of a translation, the piece of the source that it looks at the most; null where
    either is longer than the model's positions."""


def main(arguments: list[str]) -> None:
    """Translate standard input to standard output: one line out for each line in."""
    options = parse(TranslationOptions, arguments, "translate")
    if options.search.num_best > 1 and not options.jsonl:
        raise InputError(f"--num-best {options.search.num_best} needs --jsonl: a line of text holds one translation.")
    if options.alignments and not options.jsonl:
        raise InputError("--alignments needs --jsonl: a line of text has no room for them.")
    translator = load_translator(options)
    from transformer.data.text import stream_lines

    lines = _counted(stream_lines(sys.stdin.buffer, "standard input"))
    if options.jsonl:
        written = (json.dumps(record, ensure_ascii=False) for record in _records(translator, lines, options))
    else:
        written = translator.translate(lines, options.search)
    for line in written:
        with _uninterrupted():
            left = line.encode() + b"\n"
            while left:  # a signal may have cut a long write short
                left = left[sys.stdout.buffer.write(left) :]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of what is begun here, so that no half of a line is left; pressed again, it does not."""
    before, pressed = signal.getsignal(signal.SIGINT), []
    if before is signal.SIG_IGN:  # as in the background of a script: it interrupts nothing
        yield
        return

    def wait(number: int, _: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _records(translator: "Translator", lines: Iterator[str], options: TranslationOptions) -> Iterator[dict[str, Any]]:
    from transformer.inference.translation import WINDOW

    lines, read = tee(lines)
    both = zip(lines, translator.n_best(read, options.search), strict=True)
    while window := list(islice(both, WINDOW)):
        sources, found = map(list, zip(*window, strict=True))
        aligned = _alignments(translator, sources, found) if options.alignments else None
        for source, translations in zip(sources, found, strict=True):
            yield {"source": source, "translations": [_record(best, aligned) for best in translations]}


def _record(translation: "Translation", aligned: Iterator[dict[str, Any]] | None) -> dict[str, Any]:
    score = translation.score if math.isfinite(translation.score) else None  # JSON has no word for infinity
    record = {"text": translation.text, "score": score, "tokens": translation.tokens}
    return record if aligned is None else record | next(aligned)


def _alignments(
    translator: "Translator", sources: list[str], found: list[list["Translation"]]
) -> Iterator[dict[str, Any]]:
    """The pieces of both sides of each translation, and their alignment."""
    pairs = [(source, best.text) for source, own in zip(sources, found, strict=True) for best in own]
    fit = translator.fit(*map(list, zip(*pairs, strict=True)))
    fitting = [pair for pair, fits in zip(pairs, fit, strict=True) if fits]
    places = iter(translator.alignments(*map(list, zip(*fitting, strict=True))) if fitting else ())
    tokenizer = translator.tokenizer
    for (source, target), fits in zip(pairs, fit, strict=True):
        source_pieces, target_pieces = (
            tokenizer.pieces([*ids, tokenizer.end_id]) for ids in tokenizer.encode_batch([source, target])
        )
        alignment = next(places) if fits else None  # what was translated in pieces
        yield {"source_pieces": source_pieces, "target_pieces": target_pieces, "alignment": alignment}


def _counted(lines: Iterator[str]) -> Iterator[str]:
    """The same lines, with their number on standard error where somebody looks on."""
    start, count = time.monotonic(), 0
    for count, line in enumerate(lines, start=1):
        if sys.stderr.isatty() and count % 1000 == 0:
            speed = count / (time.monotonic() - start)
            print(f"\r{count:,} lines read, {speed:,.0f} a second", end="", file=sys.stderr, flush=True)
        yield line
    if sys.stderr.isatty() and count >= 1000:
        print(file=sys.stderr)

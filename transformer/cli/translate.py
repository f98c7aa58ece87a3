"""The `transformer translate` command, which translates standard input."""

import io
import json
import math
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, cast

from transformer.cli.decoding import DecodingOptions, Dtype, load_translator, parse
from transformer.errors import InputError, require
from transformer.joining import joined
from transformer.runtime import require_package
from transformer.stages import stage

if TYPE_CHECKING:
    from transformer.inference.translation import Translation, Window
    from transformer.inference.translator import Translator
    from transformer.interop.engine import Engine


@dataclass(frozen=True)
class TranslationOptions(DecodingOptions):
    """Translate standard input to standard output, one line out for each line in.

    Input and output are UTF-8. Lines are answered as soon as no more input is waiting, so another program can keep this
    one open and ask line by line. An empty line stays empty. All other messages go to standard error.

        transformer translate runs/quickstart < test.en > test.de
        transformer translate runs/quickstart --jsonl --num-best 4 < test.en
        transformer translate runs/quickstart --engine ctranslate2 --dtype int8 < test.en"""

    engine: Literal["jax", "ctranslate2"] = "jax"
    """`ctranslate2` decodes with CTranslate2, which needs the extra `interop`. The model is converted once, into
    RUN/ctranslate2."""
    dtype: Dtype | Literal["float16", "int8"] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Compute dtype. With JAX, `auto` is bfloat16 where the hardware supports it, and the default is the run's. With
    --engine ctranslate2, `auto` and the default are float32. float16 and int8 need that engine."""
    jsonl: bool = False
    """Write a JSON object for each line: `source`, and `translations` from best to worst, each with `text`, `score` and
    `tokens` (length in tokens, including the end token)."""
    alignments: bool = False
    """With --jsonl, also write `alignment`: for each target token, the index of the source token that it attends to
    most, or null if either text is longer than the model's positions. `source_tokens` and `target_tokens` are the
    tokens. `source_offsets` are the start and end of each source token in `source`, in characters."""


def main(arguments: list[str]) -> None:
    """Translates standard input to standard output, one line out for each line in."""
    options = parse(TranslationOptions, arguments, "translate")
    if options.search.num_best > 1 and not options.jsonl:
        raise InputError(f"--num-best {options.search.num_best} needs --jsonl: a line of text holds one translation.")
    if options.alignments and not options.jsonl:
        raise InputError("--alignments needs --jsonl: a line of text has no room for them.")
    translator = _load(options)
    from transformer.data.text import stream_lines

    count = 0
    lines: Iterable[str] = _counted(stream_lines(_standard_input(), "standard input"))
    if joined():  # only the first process may have the input
        from transformer import processes

        lines = processes.of_first(processes.by_first(partial(list, lines)) or [])
    for window in translator.windows(lines, options.search):
        _note_chunks(window, count)
        count += len(window.sentences)
        if options.jsonl:
            written = (json.dumps(record, ensure_ascii=False) for record in _records(translator, window, options))
        else:
            written = (found[0].text for found in window.translations)
        for line in written:
            with _uninterrupted():
                left = line.encode() + b"\n"
                while left:  # a signal may interrupt a long write
                    left = left[sys.stdout.buffer.write(left) :]
        with _uninterrupted():
            sys.stdout.buffer.flush()  # the writer may be waiting for these lines before it sends more


def _load(options: TranslationOptions) -> "Translator | Engine":
    """Loads the run for the engine that translates."""
    if options.engine == "jax":
        if options.dtype in ("float16", "int8"):
            raise InputError(f"--dtype {options.dtype} needs --engine ctranslate2.")
        return load_translator(options)
    for name in ("alignments", "ensemble"):
        if getattr(options, name):
            raise InputError(f"CTranslate2 does not support --{name}. Use --engine jax.")
    require(not joined(), "--engine ctranslate2 works in one process. Start one, or use --engine jax.")
    require_package("ctranslate2")
    from transformer.interop.engine_cache import load_engine

    compute_type = "float32" if options.dtype in (None, "auto") else options.dtype
    say = partial(print, file=sys.stderr, flush=True)
    say(f"compute dtype: {compute_type} (CTranslate2)")
    with stage(f"loading {options.run}", say):
        return load_engine(options.run, options.checkpoint, options.average, compute_type, say)


def _standard_input() -> Iterable[bytes]:
    """Takes standard input away from Python, for the thread that reads it.

    Python closes `sys.stdin` at exit, and aborts if a thread is still reading from it.
    """
    if not isinstance(sys.stdin, io.TextIOWrapper):
        raise InputError("Standard input is closed. Give it the lines to translate, for instance with < FILE.")
    return sys.stdin.detach()


def _note_chunks(window: "Window", before: int) -> None:
    for number, chunks in enumerate(window.chunks, start=before + 1):
        if chunks > 1:
            print(
                f"Line {number} has more tokens than the model has positions, so it is translated in {chunks} chunks.",
                file=sys.stderr,
            )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C to the end of the block, so that no partial line is written.

    A second Ctrl-C is not delayed.
    """
    before, pressed = signal.getsignal(signal.SIGINT), []
    if before is signal.SIG_IGN:  # as in a script's background job
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


def _records(
    translator: "Translator | Engine", window: "Window", options: TranslationOptions
) -> Iterator[dict[str, Any]]:
    aligned = None
    if options.alignments:
        aligned = _alignments(cast("Translator", translator), window.sentences, window.translations)
    for source, translations in zip(window.sentences, window.translations, strict=True):
        yield {"source": source, "translations": [_record(best, aligned) for best in translations]}


def _record(translation: "Translation", aligned: Iterator[dict[str, Any]] | None) -> dict[str, Any]:
    score = translation.score if math.isfinite(translation.score) else None  # JSON cannot represent infinity
    record = {"text": translation.text, "score": score, "tokens": translation.tokens}
    return record if aligned is None else record | next(aligned)


def _alignments(
    translator: "Translator", sources: list[str], found: list[list["Translation"]]
) -> Iterator[dict[str, Any]]:
    """The tokens of both sides of each translation, and their alignment."""
    pairs = [(source, best.text) for source, own in zip(sources, found, strict=True) for best in own]
    fit = translator.fit(*map(list, zip(*pairs, strict=True)))
    fitting = [pair for pair, fits in zip(pairs, fit, strict=True) if fits]
    indices = iter(translator.alignments(*map(list, zip(*fitting, strict=True))) if fitting else ())
    tokenizer = translator.tokenizer
    for (source, target), fits in zip(pairs, fit, strict=True):
        source_tokens, target_tokens = (
            vocabulary.tokens([*vocabulary.encode(text), tokenizer.end_id])
            for vocabulary, text in ((tokenizer.source, source), (tokenizer.target, target))
        )
        yield {
            "source_tokens": source_tokens,
            "source_offsets": [*tokenizer.source.offsets(source), (len(source), len(source))],
            "target_tokens": target_tokens,
            "alignment": next(indices) if fits else None,  # None: translated in chunks
        }


def _counted(lines: Iterator[str]) -> Iterator[str]:
    """The same lines, counted on standard error if that is a terminal."""
    start, count = time.monotonic(), 0
    for count, line in enumerate(lines, start=1):
        if sys.stderr.isatty() and count % 1000 == 0:
            speed = count / (time.monotonic() - start)
            print(f"\r{count:,} lines read, {speed:,.0f} lines/s", end="", file=sys.stderr, flush=True)
        yield line
    if sys.stderr.isatty() and count >= 1000:
        print(file=sys.stderr)

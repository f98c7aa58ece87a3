"""Compares the translations of `transformer translate --engine ctranslate2` with our own.

    python benchmarks/engines.py --run RUN --source FILE --target FILE

JAX translates in float32, and CTranslate2 in each of the given dtypes. A table says how many translations are identical
to those of JAX, how far the scores of these are apart, BLEU, and the time. Translations of CTranslate2 in float32 that
differ follow, with both scores. Nothing is written into RUN.
"""

import argparse
import dataclasses
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from transformer.runtime import keep_freed_memory

keep_freed_memory()

from transformer.config import DataConfig, SearchConfig
from transformer.data.corpus import read_pairs
from transformer.errors import InputError
from transformer.inference.evaluate import bleu
from transformer.inference.metrics import metrics_of
from transformer.inference.translation import Translation
from transformer.inference.translator import load
from transformer.interop.engine_cache import load_engine

OURS = "JAX float32"
HEAD = "| beam | engine | identical | scores apart | BLEU | seconds |\n| --- | --- | --- | --- | --- | --- |"


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--source", required=True, help="source sentences, one per line (also .gz, .xz or .zst)")
    parser.add_argument("--target", required=True, help="reference translations, one per line")
    parser.add_argument("--sentences", type=int, default=500, help="number of sentences, from the start of the file")
    parser.add_argument("--beam-size", type=int, nargs="+", default=[1, 4], help="beam sizes to compare")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "int8"], help="dtypes of CTranslate2")
    try:
        run(parser.parse_args())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    pairs, _ = read_pairs(DataConfig(test=(options.source, options.target)), "test")
    sources, references = pairs.sources[: options.sentences], pairs.targets[: options.sentences]
    ours, engines = load_all(options)
    differences = []
    print(HEAD)
    for beam_size in options.beam_size:
        search = dataclasses.replace(ours.config.search, beam_size=beam_size)
        translate(ours, sources, search)  # compiles
        expected, seconds = translate(ours, sources, search)
        for name, engine in engines.items():
            found, seconds = (expected, seconds) if engine is ours else translate(engine, sources, search)
            both = [*zip(expected, found, strict=True)]
            apart = [abs(own.score - other.score) for own, other in both if own.text == other.text]
            score = bleu([best.text for best in found], references, metrics=metrics_of(ours.config))
            same = f"{len(apart)} of {len(found)} | {max(apart, default=0):.1e}"
            print(f"| {beam_size} | {name} | {same} | {score:.2f} | {seconds:.1f} |")
            if name == "CTranslate2 float32":
                differences += [(beam_size, own, other) for own, other in both if own.text != other.text]
    for beam_size, own, other in differences:
        print(f"beam {beam_size}: JAX {own.score:.6f} {own.text!r}, CTranslate2 {other.score:.6f} {other.text!r}")


def load_all(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Loads the run for JAX and for each dtype of CTranslate2, from a temporary copy."""
    say = partial(print, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(options.run, Path(folder) / "run")
        ours = load(copy, dtype="float32")
        engines = {f"CTranslate2 {dtype}": load_engine(copy, "last", None, dtype, say) for dtype in options.dtypes}
    return ours, {OURS: ours, **engines}


def translate(engine: Any, sources: list[str], search: SearchConfig) -> tuple[list[Translation], float]:
    """The best translation of each source, and the seconds that it took."""
    start = time.perf_counter()
    found = [best[0] for window in engine.windows(sources, search) for best in window.translations]
    return found, time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())

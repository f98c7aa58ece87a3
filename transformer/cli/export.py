"""`transformer export`: the whole search as one artefact that jax runs without this package."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from transformer.cli.decoding import DecodingOptions, Dtype, load_translator, parse
from transformer.files import check_writable, write_whole


@dataclass(frozen=True)
class ExportOptions(DecodingOptions):
    """Write encoder and beam search as one StableHLO artefact for CPU, CUDA and TPU, for batches of any shape.

    examples/run_exported.py runs it with jax alone. Beside FILE stand FILE.json (pad id, end id, longest sentence) and
    FILE.tokenizer.json (the run's, for the package tokenizers)."""

    file: Positional[str] = field(kw_only=True)
    """The file to write."""
    longest: int | None = None
    """Longest source, and longest translation where --max-length is not less, in tokens with the end token; memory goes
    with it. The number of the model's positions unless given."""
    dtype: Dtype = "float32"
    """Compute type of the artefact, wherever it runs: bfloat16 is faster where the hardware has it; `auto` asks the
    hardware of this machine."""


def main(arguments: list[str]) -> None:
    """Write encoder and beam search as one StableHLO artefact."""
    options = parse(ExportOptions, arguments, "export")
    file = Path(options.file)
    check_writable(file)
    translator = load_translator(options)
    from transformer.inference.export import export_search

    artefact = export_search(translator, options.search, options.longest)
    translator.tokenizer.save(f"{file}.tokenizer.json")
    write_whole(Path(f"{file}.json"), f"{json.dumps(artefact.about, indent=2, ensure_ascii=False)}\n".encode())
    write_whole(file, artefact.program)  # last: where it is, the others are
    print(f"{file}: {len(artefact.program) / 1e6:,.1f} MB, sentences of at most {artefact.about['max_length']} tokens")

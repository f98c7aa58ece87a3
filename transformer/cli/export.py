"""The `transformer export` command, which writes the search as one StableHLO file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from transformer.cli.decoding import DecodingOptions, Dtype, load_translator, parse
from transformer.files import check_writable, write_whole


@dataclass(frozen=True)
class ExportOptions(DecodingOptions):
    """Write encoder and beam search as one StableHLO file.

    The file runs on CPU, CUDA and TPU, for any batch size and source length. It needs JAX, but not this package:
    examples/run_exported.py shows how. FILE.json (pad id, end id, maximum length) and FILE.tokenizer.json (for the
    package `tokenizers`) are written next to FILE.

        transformer export runs/quickstart quickstart.export --beam-size 4"""

    file: Annotated[Positional[str], arg(metavar="FILE")] = field(kw_only=True)
    """The file to write."""
    longest: int | None = None
    """Maximum source length, and maximum translation length unless --max-length is smaller, in tokens including the end
    token. Memory use grows with it. By default the number of the model's positions."""
    dtype: Dtype = "float32"
    """Compute dtype of the exported program on every machine. bfloat16 is faster where the hardware supports it; `auto`
    chooses what suits this machine."""


def main(arguments: list[str]) -> None:
    """Writes encoder and beam search as one StableHLO artefact."""
    options = parse(ExportOptions, arguments, "export")
    file = Path(options.file)
    check_writable(file)
    translator = load_translator(options)
    from transformer.inference.export import export_search

    artefact = export_search(translator, options.search, options.longest)
    translator.tokenizer.save(f"{file}.tokenizer.json")
    write_whole(Path(f"{file}.json"), f"{json.dumps(artefact.about, indent=2, ensure_ascii=False)}\n".encode())
    write_whole(file, artefact.program)  # last, so that where it exists the other two do
    print(f"{file}: {len(artefact.program) / 1e6:,.1f} MB, maximum length {artefact.about['max_length']} tokens")

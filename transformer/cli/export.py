"""The `transformer export` command, which writes a run for other programs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from transformer.cli.decoding import DecodingOptions, Dtype, load_translator, parse
from transformer.errors import require
from transformer.files import check_new, check_writable
from transformer.interop.formats import Export, Request, module


@dataclass(frozen=True)
class ExportOptions(DecodingOptions):
    """Write a run for other programs.

    stablehlo is one file with encoder and beam search. It runs on CPU, CUDA and TPU, for any batch size and source
    length. It needs JAX, but not this package: examples/run_exported.py shows how. PATH.json (pad id, end id, maximum
    length) and PATH.tokenizer.json (for the package `tokenizers`) are written next to PATH. The other formats are
    folders; docs/interop.md describes them.

        transformer export runs/quickstart quickstart.export --beam-size 4
        transformer export runs/quickstart quickstart-marian --to marian"""

    path: Annotated[Positional[str], arg(metavar="PATH")] = field(kw_only=True)
    """The file to write, or the new folder."""
    to: Export = "stablehlo"
    """The format."""
    longest: int | None = None
    """Maximum source length, and maximum translation length unless --max-length is smaller, in tokens including the end
    token. Memory use grows with it. By default the number of the model's positions. For stablehlo only."""
    dtype: Dtype = "float32"
    """Compute dtype of an exported StableHLO program on every machine. bfloat16 is faster where the hardware supports
    it; `auto` chooses what suits this machine."""


def main(arguments: list[str]) -> None:
    """Writes a run for another program."""
    options = parse(ExportOptions, arguments, "export")
    path = Path(options.path)
    if options.to == "stablehlo":
        check_writable(path)
    else:
        check_new(path)
        require(options.longest is None, f"--longest is for --to stablehlo only. Leave it out for {options.to}.")
    writer = module(options.to)
    translator = load_translator(options)
    print(writer.write(translator, Request(Path(options.run), path, options.search, options.longest)))

"""The `transformer complexity` command, which measures what a layer costs."""

import json
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from transformer.analysis.complexity.settings import Settings
from transformer.cli.options import parse
from transformer.errors import InputError
from transformer.files import check_writable, write_whole
from transformer.runtime import resolve_dtype, unused_accelerator, use_compilation_cache

SUFFIXES = (".png", ".svg")


@dataclass(frozen=True)
class ComplexityOptions:
    """Measure what one layer costs, next to the formulas of the paper's Table 1.

    Layers: self-attention, self-attention restricted to a neighbourhood, recurrent layers (GRU, LSTM) and a
    convolution. For each sequence length n and width d the operations that XLA counts and the time on this device are
    reported. The default sizes take about a minute and a half on two CPU cores.

        transformer complexity --lengths 128 256 --widths 64 --output complexity.svg"""

    settings: OmitArgPrefixes[Settings] = field(default_factory=Settings)
    json: str | None = None
    """Also write all results to this file as JSON. `-` prints JSON instead of the tables."""
    output: str | None = None
    """Also write a log-log plot of operations and times to this file (.png, .svg)."""


def main(arguments: list[str]) -> None:
    """Measures what one layer of each kind costs."""
    options = parse(ComplexityOptions, arguments, "complexity")
    for file in (options.json, options.output):  # refuse a bad file before minutes of measuring
        if file not in (None, "-"):
            check_writable(file)
    if options.output is not None:
        if Path(options.output).suffix not in SUFFIXES:
            raise InputError(f"--output must end in {' or '.join(SUFFIXES)}, but is {options.output}.")
        import transformer.analysis.figures  # noqa: F401  raises InputError if matplotlib is missing
    from rich.console import Console
    from rich.progress import track

    from transformer.analysis.complexity.layers import LAYERS
    from transformer.analysis.complexity.measure import DIRECTIONS, device, measure
    from transformer.analysis.complexity.paths import LENGTHS, path_lengths
    from transformer.analysis.complexity.report import Report, to_json, to_text

    settings, console = options.settings, Console(stderr=True)
    use_compilation_cache()
    resolve_dtype(settings.dtype)  # raises InputError if there is no device
    if (advice := unused_accelerator()) is not None:
        print(advice, file=sys.stderr)
    programs = len({*settings.lengths}) * len({*settings.widths}) * len(LAYERS) * len(DIRECTIONS)
    measured = track(
        measure(settings), "measuring", programs, console=console, transient=True, disable=not console.is_terminal
    )
    paths = {n: path_lengths(n, settings.kernel, settings.neighbourhood) for n in LENGTHS}
    report = Report(settings, device(), [*measured], paths)
    if options.output is not None:
        from transformer.analysis.figures import to_bytes
        from transformer.analysis.figures.complexity import draw

        suffix = Path(options.output).suffix.removeprefix(".")
        write_whole(Path(options.output), to_bytes(partial(draw, report), suffix))
    as_json = json.dumps(to_json(report), indent=2) + "\n"
    if options.json == "-":
        print(as_json, end="")
        return
    if options.json is not None:
        write_whole(Path(options.json), as_json.encode())
    print(to_text(report))

"""Measured costs of layers as tables and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformer.analysis.complexity.formulas import TABLE, Size
from transformer.analysis.complexity.layers import LAYERS, ROW_OF
from transformer.analysis.complexity.measure import DIRECTIONS, Direction, Measurement
from transformer.analysis.complexity.settings import Settings


@dataclass(frozen=True)
class Report:
    """Measurements of layers, with their settings and device."""

    settings: Settings
    device: str
    """The kind of device and the version of JAX."""
    measurements: list[Measurement]
    """Every layer at every n and d in every direction."""
    paths: dict[int, dict[str, int]]
    """The maximum path length of each row of Table 1 as measured, by n."""

    @property
    def largest(self) -> Size:
        """The largest n and d."""
        settings = self.settings
        return Size(max(settings.lengths), max(settings.widths), settings.kernel, settings.neighbourhood)

    def select(self, layer: str, direction: Direction) -> list[Measurement]:
        """One layer in one direction, at every n and d."""
        return [one for one in self.measurements if (one.layer, one.direction) == (layer, direction)]

    def at(self, layer: str, direction: Direction, n: int, d: int) -> Measurement:
        """One layer in one direction at one n and d."""
        (found,) = (one for one in self.select(layer, direction) if (one.n, one.d) == (n, d))
        return found


def to_json(report: Report) -> dict[str, Any]:
    """Table 1 at the largest n and d, and all measurements, for `json.dumps`."""
    table = [
        {"layer": row.layer}
        | {
            name: {"formula": order.formula, "count": order.count(report.largest)}
            for name, order in vars(row).items()
            if name != "layer"
        }
        for row in TABLE
    ]
    return asdict(report) | {"table": table}


def to_text(report: Report) -> str:
    """Table 1 and the measurements as tables."""
    size, settings = report.largest, report.settings
    where = f"n = {size.n}, d = {size.d}"
    tables = {
        f"Table 1 of the paper, at {where}, k = {size.k}, r = {size.r}": _formulas(size),
        "Maximum path length measured from Jacobians, in layers (recurrent: in steps)": _paths(report),
        f"Measured cost of one layer, at {where}: {settings.dtype}, batch size {settings.batch}, {report.device}\n"
        f"Times in ms: median of at least {settings.repeats} runs (fastest to slowest)": _costs(report, size),
        f"Forward time in ms by sequence length n, at d = {size.d}": _times(report, size.d),
    }
    return "\n\n".join(f"{title}\n\n{_aligned([*table])}" for title, table in tables.items())


def _formulas(size: Size) -> Iterator[Sequence[str]]:
    yield "layer", "complexity", "", "sequential operations", "", "maximum path length", ""
    for row in TABLE:
        orders = (row.operations, row.sequential, row.path)
        yield row.layer, *(cell for order in orders for cell in (f"O({order.formula})", f"{order.count(size):,}"))


def _paths(report: Report) -> Iterator[Sequence[str]]:
    yield "layer", "formula", *(f"n = {n}" for n in report.paths)
    for row in TABLE:
        yield row.layer, f"O({row.path.formula})", *(str(found[row.layer]) for found in report.paths.values())


def _costs(report: Report, size: Size) -> Iterator[Sequence[str]]:
    yield "layer", "forward MFLOP", "MFLOP / formula", "forward", "", "forward and backward", "", "forward GFLOP/s"
    formulas = {row.layer: row.operations for row in TABLE}
    for layer in LAYERS:
        forward, both = (report.at(layer, direction, size.n, size.d) for direction in DIRECTIONS)
        constant = "-"
        if layer in ROW_OF:
            order = formulas[ROW_OF[layer]]
            constant = f"{forward.flops / report.settings.batch / order.count(size):.1f} {order.formula}"
        times = [
            cell
            for one in (forward, both)
            for cell in (f"{one.seconds * 1e3:.2f}", f"({one.fastest * 1e3:.2f} to {one.slowest * 1e3:.2f})")
        ]
        yield layer, f"{forward.flops / 1e6:,.1f}", constant, *times, f"{forward.flops / forward.seconds / 1e9:.1f}"


def _times(report: Report, d: int) -> Iterator[Sequence[str]]:
    lengths = sorted({*report.settings.lengths})
    yield "layer", *(f"n = {n}" for n in lengths)
    for layer in LAYERS:
        yield layer, *(f"{report.at(layer, 'forward', n, d).seconds * 1e3:.2f}" for n in lengths)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Aligns the first column of a table to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

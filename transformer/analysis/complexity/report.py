"""What a layer costs, as tables and as JSON."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformer.analysis.complexity.fits import Crossover, Fit, Quantity, crossover, fit
from transformer.analysis.complexity.formulas import TABLE, Size
from transformer.analysis.complexity.layers import ATTENTION, CONVOLUTION, GRU, LAYERS, LSTM, PROJECTED, ROW_OF
from transformer.analysis.complexity.measure import DIRECTIONS, Direction, Measurement
from transformer.analysis.complexity.settings import Settings

PROJECTIONS, HALF = "its projections", "two of its projections"
"""What attention with projections costs more than attention, and half of it: as many products as attention has."""


@dataclass(frozen=True)
class Report:
    """What was measured, how and where."""

    settings: Settings
    """What was to be measured."""
    device: str
    """The kind of device, and the version of jax."""
    measurements: list[Measurement]
    """Every layer at every n and d in every direction."""
    paths: dict[int, dict[str, int]]
    """For some n, for each row of Table 1: the longest path between two positions, as it was found."""

    @property
    def widths(self) -> list[int]:
        """Every d, in ascending order."""
        return sorted({*self.settings.widths})

    @property
    def largest(self) -> Size:
        """The largest n and d."""
        settings = self.settings
        return Size(max(settings.lengths), max(settings.widths), settings.kernel, settings.neighbourhood)

    def select(self, layer: str, direction: Direction) -> list[Measurement]:
        """One layer in one direction, at every n and d."""
        return [one for one in self.measurements if (one.layer, one.direction) == (layer, direction)]

    def at(self, layer: str, direction: Direction, size: Size) -> Measurement:
        """One layer in one direction at one n and d."""
        (found,) = (one for one in self.select(layer, direction) if (one.n, one.d) == (size.n, size.d))
        return found

    def fits(self, quantity: Quantity, direction: Direction) -> dict[str, Fit]:
        """For each layer the exponents of n and d."""
        return {layer: fit(self.select(layer, direction), quantity) for layer in LAYERS}

    def crossovers(self, quantity: Quantity, direction: Direction) -> dict[str, dict[int, Crossover]]:
        """The n from which on attention costs more than a layer of cost n d^2, or than its projections, at each d."""

        def cost(layer: str, d: int) -> dict[int, float]:
            return {one.n: getattr(one, quantity) for one in self.select(layer, direction) if one.d == d}

        found = defaultdict[str, dict[int, Crossover]](dict)
        for d in self.widths:
            attention = cost(ATTENTION, d)
            for layer in (GRU, LSTM, CONVOLUTION):
                found[layer][d] = crossover(attention, cost(layer, d))
            if quantity == "flops":  # a difference of times is mostly noise
                added = {n: whole - attention[n] for n, whole in cost(PROJECTED, d).items()}
                found[PROJECTIONS][d] = crossover(attention, added)
                # Attention's two products, Q K^T and that with V, against two of the four projections.
                found[HALF][d] = crossover(attention, {n: operations / 2 for n, operations in added.items()})
        return dict(found)


QUANTITIES: tuple[tuple[Quantity, Direction], ...] = (
    ("flops", "forward"),
    ("seconds", "forward"),
    ("seconds", "forward and backward"),
)


def to_json(report: Report) -> dict[str, Any]:
    """Everything that the tables show and all that they are made of, ready for `json.dumps`."""
    size = report.largest
    return {
        **asdict(report),
        "table": [
            {
                "layer": row.layer,
                **{
                    name: {"formula": order.formula, "count": order.count(size)}
                    for name, order in vars(row).items()
                    if name != "layer"
                },
            }
            for row in TABLE
        ],
        "exponents": [
            {"quantity": quantity, "direction": direction, "layer": layer, **asdict(found)}
            for quantity in ("flops", "bytes", "seconds")
            for direction in DIRECTIONS
            for layer, found in report.fits(quantity, direction).items()
        ],
        "crossovers": [
            {"quantity": quantity, "direction": direction, "layer": layer, "d": d, **asdict(found)}
            for quantity, direction in QUANTITIES
            for layer, of_layer in report.crossovers(quantity, direction).items()
            for d, found in of_layer.items()
        ],
    }


def to_text(report: Report) -> str:
    """The tables."""
    size, settings = report.largest, report.settings
    place = f"n = {size.n}, d = {size.d}"
    tables = {
        f"Table 1 of the paper, at {place}, k = {size.k}, r = {size.r}": _formulas(size),
        "The longest path between two positions as found in Jacobians, in layers (recurrent: in steps)": _paths(report),
        f"One layer at {place}: {settings.dtype}, batch of {settings.batch}, {report.device}\nTimes in ms: median of "
        f"{settings.repeats} runs or more (fastest to slowest)": _costs(report, size),
        "Exponents of n and d at the three largest of each (of times: with standard error)": _exponents(report),
        "The n from which on attention costs more than another layer": _crossovers(report),
    }
    return "\n\n".join(f"{title}\n\n{_aligned([*table])}" for title, table in tables.items())


def _formulas(size: Size) -> Iterator[Sequence[str]]:
    yield "layer", "operations", "", "sequential", "", "longest path", ""
    for row in TABLE:
        orders = (row.operations, row.sequential, row.path)
        yield row.layer, *(cell for order in orders for cell in (f"O({order.formula})", f"{order.count(size):,}"))


def _paths(report: Report) -> Iterator[Sequence[str]]:
    yield "layer", "formula", *(f"n = {n}" for n in report.paths)
    for row in TABLE:
        yield row.layer, f"O({row.path.formula})", *(str(found[row.layer]) for found in report.paths.values())


def _costs(report: Report, size: Size) -> Iterator[Sequence[str]]:
    yield "layer", "MFLOP", "times the formula", "MB", "forward", "", "and backward", "", "GFLOP/s forward"
    formulas = {row.layer: row.operations for row in TABLE}
    for layer in LAYERS:
        forward, both = (report.at(layer, direction, size) for direction in DIRECTIONS)
        constant = "-"
        if layer in ROW_OF:
            order = formulas[ROW_OF[layer]]
            constant = f"{forward.flops / report.settings.batch / order.count(size):.1f} {order.formula}"
        yield (
            layer,
            f"{forward.flops / 1e6:,.1f}",
            constant,
            f"{forward.bytes / 1e6:,.0f}",
            *_time(forward),
            *_time(both),
            f"{forward.flops / forward.seconds / 1e9:.1f}",
        )


def _time(one: Measurement) -> tuple[str, str]:
    return f"{one.seconds * 1e3:.2f}", f"({one.fastest * 1e3:.2f} to {one.slowest * 1e3:.2f})"


def _exponents(report: Report) -> Iterator[Sequence[str]]:
    yield "layer", "operations", "", "time forward", "", "and backward", ""
    fits = [report.fits(quantity, direction) for quantity, direction in QUANTITIES]
    for layer in LAYERS:
        flops, *times = (found[layer] for found in fits)
        cells = [f"n^{flops.n:.2f}", f"d^{flops.d:.2f}"]
        for one in times:
            cells += [f"n^{one.n:.2f} +- {one.n_error:.2f}", f"d^{one.d:.2f} +- {one.d_error:.2f}"]
        yield layer, *cells


def _crossovers(report: Report) -> Iterator[Sequence[str]]:
    widths = report.widths
    yield "than", "by", *(f"d = {d}" for d in widths)
    for quantity, direction in QUANTITIES:
        by = "operations" if quantity == "flops" else f"time {direction}"
        for layer, found in report.crossovers(quantity, direction).items():
            yield layer, by, *(_place(found[d], d) for d in widths)


def _place(found: Crossover, d: int) -> str:
    if found.relation == "=":
        return f"{found.n:.0f} = {found.n / d:.1f} d"
    return f"{found.relation} {found.n:.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side: words to the left, numbers and what stands over them to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

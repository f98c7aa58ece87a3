"""The rows of `benchmarks/results.csv`, with medians and quartiles."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("results.csv")

Measured = Mapping[tuple[str, str], Sequence[float]]
"""The values of each (quantity, unit), one per turn or a single one for the run."""


class Row(NamedTuple):
    """One quantity of one program in one run."""

    date: str
    """The date as YYYY-MM-DD."""
    machine: str
    """The processor and the number of cores that were used, or the accelerator."""
    benchmark: str
    """`training`, `decoding` or `accelerator`."""
    setting: str
    """The size of the model or the beam, then the other settings, separated by semicolons."""
    program: str
    quantity: str
    unit: str
    lower_quartile: float
    median: float
    upper_quartile: float
    command: str
    """The command as it was typed on that date. Its options may have changed since."""


def rows_of(
    result: Mapping[str, Any], command: str, benchmark: str, setting: str, program: str, measured: Measured
) -> list[Row]:
    """The rows of one program, one per quantity.

    `result` contains the date and the machine.
    """
    machine, date = result["machine"], result["date"][:10]
    device = f"{machine['device']}, {machine['cores']} cores" if "cores" in machine else machine["device"]
    return [
        Row(date, device, benchmark, setting, program, quantity, unit, *quartiles(values), command)
        for (quantity, unit), values in measured.items()
    ]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, median and upper quartile of some values."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def read(file: Path = FILE) -> list[Row]:
    """Reads all rows of a file.

    Raises: ValueError if a line does not have the columns of `Row`, or if a quartile is not a number.
    """
    with file.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    if any(len(row) != len(Row._fields) for row in rows) or tuple(header) != Row._fields:
        raise ValueError(f"{file} must have the columns {', '.join(Row._fields)}.")
    return [Row._make([*row[:7], *map(float, row[7:10]), row[10]]) for row in rows]


def append(rows: Sequence[Row], file: Path) -> None:
    """Appends rows to a file, and writes a header first if the file is new."""
    new = not file.exists()
    with file.open("a", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        if new:
            writer.writerow(Row._fields)
        for row in rows:
            writer.writerow([f"{cell:.8g}" if isinstance(cell, float) else cell for cell in row])

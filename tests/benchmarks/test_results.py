"""What was measured: the file is well-formed, and README and docs/ quote it."""

import re
from pathlib import Path

import pytest
from results import FILE, Row, append, read

ROOT = Path(__file__).parents[2]
ROWS = read()
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?")
# How the settings of README's quantities begin in the file: S is d_model 256, B the paper's base.
README_SETTINGS = {"d_model 256": "S;", "base": "B;", "greedy": "greedy;", "beam of 4": "beam 4;"}


def table_after(file: str, words: str) -> list[list[str]]:
    """The cells of the first table after some words, without its header."""
    _, found, text = (ROOT / file).read_text(encoding="utf-8").partition(words)
    assert found, f"{file} no longer says: {words}"
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None
    return [line.strip("| ").split(" | ") for line in lines[0].replace("`", "").splitlines()[2:]]


def assert_quoted(text: str, rows: list[Row]) -> None:
    """Each number in a text is a median or quartile of these rows, rounded as it stands there."""
    assert NUMBER.search(text), text
    for number in NUMBER.findall(text):
        decimals = len(number.partition(".")[2])
        rounded = {f"{value:,.{decimals}f}" for row in rows for value in row[7:10]}
        assert number in rounded, f"{number} in {text}"


def test_rows_are_in_order_and_differ() -> None:
    keys = [(row.date, row.benchmark, row.setting, row.program, row.quantity, row.command) for row in ROWS]
    assert len({*keys}) == len(keys) > 60
    for row in ROWS:
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", row.date)
        assert 0 <= row.lower_quartile <= row.median <= row.upper_quartile, row
        assert row.benchmark in {"training", "decoding"}
        assert row.command.startswith(f"python benchmarks/{row.benchmark}.py --")
        assert all((row.machine, row.setting, row.program, row.quantity)), row


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    append(ROWS[:1], file)
    append(ROWS[1:], file)
    assert file.read_text() == FILE.read_text()
    file.write_text("date,machine\n2026-11-25,here\n")
    with pytest.raises(ValueError, match="must have the columns date, machine, benchmark, setting"):
        read(file)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("docs/performance.md", "## Side by side"),
        ("docs/performance.md", "### On slower cores"),
        ("docs/performance.md", "In float32 ("),
    ],
)
def test_tables_of_training_are_quotations(file: str, words: str) -> None:
    for first, *cells in table_after(file, words):
        size, program = first.split(", ", 1) if first[:3] in ("S, ", "B, ") else ("", first)
        if program == "transformer-jax":
            cells = [cell for cell in cells if cell != "1.00"]  # its ratio to itself
        rows = [row for row in ROWS if row.benchmark == "training" and row.setting.startswith(size)]
        assert_quoted(" ".join(cells), [row for row in rows if row.program == program.removesuffix(", bfloat16")])


def test_what_each_optimization_is_worth_is_quoted() -> None:
    rows = [row for row in ROWS if "without:" in row.command]
    for _, _, cell in table_after("docs/performance.md", "## What makes it fast")[:5]:
        assert_quoted(cell, rows)


@pytest.mark.parametrize("words", ["medians of five turns", "half of the above; three turns"])
def test_tables_of_decoding_are_quotations(words: str) -> None:
    for first, *cells in table_after("docs/experiments.md", words):
        program = first.partition(",")[0]
        assert_quoted(" ".join(cells), [row for row in ROWS if row.program == program and row.benchmark == "decoding"])


def test_readme_quotes_speed_and_memory() -> None:
    """Each cell of README's table, in the units that the benchmarks record."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Measured")[2].partition("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    header, _, *table = ([cell.strip(" `") for cell in line.split("|")] for line in lines)
    assert header[:3] == ["quantity", "unit", "device"]
    quoted = 0
    for quantity, unit, _, *values in table:
        if unit not in {"tokens/s", "GiB", "sentences/s"}:
            continue
        benchmark = "decoding" if unit == "sentences/s" else "training"
        setting = next(words for name, words in README_SETTINGS.items() if name in quantity)
        rows = [
            row for row in ROWS if (row.benchmark, row.unit) == (benchmark, unit) and row.setting.startswith(setting)
        ]
        for program, value in zip(header[3:-1], values[:-1], strict=True):
            if value:
                assert_quoted(value, [row for row in rows if row.program == program])
                quoted += 1
    assert quoted == 18

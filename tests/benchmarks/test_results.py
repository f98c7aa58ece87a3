"""What was measured: the file is well-formed, and README and docs/ quote it."""

import re
from pathlib import Path

import pytest
from results import FILE, Row, append, read

ROOT = Path(__file__).parents[2]
ROWS = read()
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?")
# How the settings of README's quantities begin in the file: S is d_model 256, B the paper's base.
README_SETTINGS = {"d_model 256": "S;", "base": "B;", "big": "big;", "greedy": "greedy;", "beam of 4": "beam 4;"}


def assert_quoted(text: str, rows: list[Row]) -> None:
    """Each number in a text is a median or quartile of these rows, rounded as in the text."""
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
        assert row.benchmark in {"training", "decoding", "accelerator"}
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


# The columns of the tables in docs/performance.md, as what the file records.
COLUMNS = {
    "tokens/s": ("speed", "median"),
    "sentences/s": ("speed", "median"),
    "lower quartile": ("speed", "lower_quartile"),
    "upper quartile": ("speed", "upper_quartile"),
    "relative time": ("time relative to transformer-jax", "median"),
    "share of the limit, %": ("share of the matmul limit", "median"),
    "peak memory, GiB": ("peak memory", "median"),
    "first step, s": ("first step", "median"),
    "equal, %": ("translations equal to the float32 translations of transformer-jax", "median"),
}
ZEN_4, ZEN_5 = ("AMD EPYC (family 25, model 17), 2 cores", "AMD EPYC (family 26), 2 cores")


def records_after(file: str, words: str) -> list[dict[str, str]]:
    """The rows of the first table after some words, by the names of its columns."""
    text = (ROOT / file).read_text(encoding="utf-8").partition(words)[2]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None, f"{file} no longer says: {words}"
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def assert_recorded(record: dict[str, str], rows: list[Row]) -> int:
    """Check that each number in a row of a table is what these rows record, rounded, and count the numbers."""
    count = 0
    for column in COLUMNS.keys() & record.keys():
        cell, (quantity, statistic) = record[column], COLUMNS[column]
        if not cell or (column, cell, record["program"]) == ("relative time", "1.00", "transformer-jax"):
            continue
        (value,) = {getattr(row, statistic) for row in rows if row.quantity == quantity}
        assert cell == f"{value:,.{len(cell.partition('.')[2])}f}", (column, record)
        count += 1
    return count


@pytest.mark.parametrize(
    ("words", "machine", "setting", "numbers"),
    [
        ("### On Zen 5, in bfloat16", ZEN_5, "allocators alike; 4 shapes with 22.4% padding; bfloat16", 54),
        ("Size S, allocators alike", ZEN_4, "allocators alike; 6 shapes with 15.9% padding", 23),
        ("Size S, each as it starts", ZEN_4, "allocators alone; 6 shapes with 15.9% padding", 13),
        ("Size B, allocators alike", ZEN_4, "allocators alike; 6 shapes with 15.9% padding", 7),
        ("### On Zen 4, in float32", ZEN_4, "allocators alike; 2 shapes with 40.0% padding; float32", 22),
    ],
)
def test_tables_of_training_are_quotations(words: str, machine: str, setting: str, numbers: int) -> None:
    count = 0
    for record in records_after("docs/performance.md", words):
        start = f"{record['size']}; {setting}"
        dtype = record.get("compute dtype", "")
        own = [row for row in ROWS if row.machine == machine and row.program == record["program"]]
        count += assert_recorded(record, [row for row in own if row.setting.startswith(start) and dtype in row.setting])
    assert count == numbers


def test_what_each_optimization_is_worth_is_quoted() -> None:
    rows = [row for row in ROWS if "without:" in row.command and row.quantity == "time relative to transformer-jax"]
    quoted = [record["relative time without it"] for record in records_after("docs/performance.md", "## What makes")]
    assert sorted(quoted) == sorted(f"{row.median:.2f}" for row in rows)


@pytest.mark.parametrize(
    ("words", "machine", "date", "numbers"),
    [
        ("2026-11-25, five turns", ZEN_5, "2026-11-25", 32),
        ("2026-11-25, three turns (matmul", ZEN_4, "2026-11-25", 22),
        ("Three hours later", ZEN_4, "2026-11-26", 6),
    ],
)
def test_tables_of_decoding_are_quotations(words: str, machine: str, date: str, numbers: int) -> None:
    count = 0
    for record in records_after("docs/performance.md", words):
        workers = f", {record['workers']} worker" if record["workers"] else ""
        start = f"{record['search']}; {record['compute dtype']}{workers}"
        own = [row for row in ROWS if (row.machine, row.date, row.program) == (machine, date, record["program"])]
        count += assert_recorded(record, [row for row in own if row.setting.startswith(start)])
    assert count == numbers


def test_readme_quotes_speed_and_memory() -> None:
    """Each cell of README's table, in the units that the benchmarks record."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Measured")[2].partition("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    header, _, *table = ([cell.strip(" `") for cell in line.split("|")] for line in lines)
    assert header[:3] == ["quantity", "unit", "device"]
    quoted = 0
    for quantity, unit, device, *values in table:
        if unit not in {"tokens/s", "GiB", "sentences/s"}:
            continue
        benchmark = "decoding" if unit == "sentences/s" else "training" if "cores" in device else "accelerator"
        setting = next(words for name, words in README_SETTINGS.items() if name in quantity)
        rows = [
            row for row in ROWS if (row.benchmark, row.unit) == (benchmark, unit) and row.setting.startswith(setting)
        ]
        for program, value in zip(header[3:-1], values[:-1], strict=True):
            if value:
                assert_quoted(value, [row for row in rows if row.program == program])
                quoted += 1
    assert quoted == 20

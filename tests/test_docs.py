"""What the tables of docs/paper.md name is there: functions, tests, commands and their pictures, notebooks."""

import importlib
import re
from pathlib import Path

import pytest

from transformer.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAPER = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAPER.splitlines() if line.startswith("| ") and "`" in line]
BY_SECTION = [row for row in ROWS if len(row) == 4]  # section, what, function, test
LECTURE = [row for row in ROWS if len(row) == 5]  # part, function, test, picture or table, notebook


def named(cells: list[str]) -> list[list[str]]:
    """Of each cell, what stands between backticks."""
    return [re.findall(r"`([^`]+)`", cell) for cell in cells]


def find(name: str) -> object:
    """A module of the package, or what stands in one."""
    path, _, last = f"transformer.{name}".rpartition(".")
    module = importlib.import_module(path)
    return getattr(module, last) if hasattr(module, last) else importlib.import_module(f"{path}.{last}")


def test_every_row_is_read():
    assert len(BY_SECTION) + len(LECTURE) == len(ROWS)
    assert min(len(BY_SECTION), len(LECTURE)) > 5


@pytest.mark.parametrize("names", named([row[2] for row in BY_SECTION] + [row[1] for row in LECTURE]), ids=", ".join)
def test_functions(names: list[str]):
    room = ""
    for name in names:
        whole = name if "." in name else f"{room}.{name}"  # as its neighbour on the left
        room = whole.rpartition(".")[0]
        find(whole)
    assert names


@pytest.mark.parametrize("names", named([row[3] for row in BY_SECTION] + [row[2] for row in LECTURE]), ids=", ".join)
def test_tests(names: list[str]):
    assert names
    assert [name for name in names if not (ROOT / "tests" / name).is_file()] == []


def test_pictures_and_notebooks_of_the_lecture():
    drawn = (ROOT / "transformer" / "cli" / "figures.py").read_text(encoding="utf-8")
    for *_, cell, notebook in LECTURE:
        pictures, notebooks = named([cell, notebook])
        assert pictures or cell == "in the notebook"
        for name in pictures:
            if name.startswith("transformer "):
                assert name.split()[1] in COMMANDS
            elif not name.startswith("--"):  # an option of the command before it
                assert f'"{name}"' in drawn
        assert notebooks
        assert [name for name in notebooks if not (ROOT / "notebooks" / f"{name}.py").is_file()] == []

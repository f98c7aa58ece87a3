"""What the tables of docs/paper.md name is there: functions, tests, commands and their pictures, notebooks."""

import importlib
import importlib.util
import re
from pathlib import Path

from transformer.cli import COMMANDS

ROOT = Path(__file__).parents[1]
ROWS = [line for line in (ROOT / "docs/paper.md").read_text("utf-8").splitlines() if line.startswith("| ")]
PICTURES = (ROOT / "transformer/cli/figures.py").read_text(encoding="utf-8")


def is_in_the_package(name: str) -> bool:
    """Whether a name is that of a module, or of something in one."""
    module, _, last = f"transformer.{name}".rpartition(".")
    return hasattr(importlib.import_module(module), last) or bool(importlib.util.find_spec(f"{module}.{last}"))


def test_what_the_tables_name_is_there() -> None:
    count, room = 0, ""
    for name in (name for row in ROWS for name in re.findall(r"`([^`]+)`", row)):
        count += 1
        if name.endswith(".py"):
            assert (ROOT / "tests" / name).is_file(), name
        elif name.startswith("transformer "):
            assert name.split()[1] in COMMANDS, name
        elif re.match(r"\d\d_", name):
            assert (ROOT / "notebooks" / f"{name}.py").is_file(), name
        elif not name.startswith("--") and f'"{name}"' not in PICTURES:
            whole = name if "." in name else f"{room}.{name}"  # in the module of the name before it
            room = whole.rpartition(".")[0]
            assert is_in_the_package(whole), name
    assert count > 80

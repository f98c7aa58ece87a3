"""The benchmark of one accelerator, with tiny sizes on the CPU: what is measured, and what is not and why."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from accelerator import BUDGET, DEFAULT, PARTS
from accelerators.child import MODULES


def test_the_default_parts_and_each_other_one_fit_into_the_budget() -> None:
    seconds = {name: sum(part.variants.values()) for name, part in PARTS.items()}
    assert sum(seconds[name] for name in DEFAULT) <= BUDGET
    assert max(seconds.values()) <= BUDGET
    assert [*PARTS][: len(DEFAULT)] == DEFAULT
    assert PARTS.keys() == MODULES.keys()


def test_parts_are_measured_on_their_own(benchmark: Callable, tmp_path: Path) -> None:
    done = benchmark("accelerator", "--out", str(tmp_path), "--tiny", "--only", "limit", "tests")
    assert done.returncode == 0, done.stderr
    limit, tests = (json.loads((tmp_path / f"{part}.json").read_text()) for part in ("limit", "tests"))
    assert limit["not_measured"] == tests["not_measured"] == {}
    assert limit["measurements"]["product bfloat16"]["teraflops"] > 0
    assert limit["measurements"]["copy"]["bytes"] == 2**23
    assert limit["measurements"]["device"] == {"kind": "cpu"}
    outcome = tests["measurements"]["tests"]
    assert (outcome["failed"], outcome["exit_status"]) == (0, 0)
    assert outcome["passed"] > 10
    assert f"tests{' ' * 30}passed {outcome['passed']}" in done.stdout


def test_a_part_that_cannot_be_measured_says_why(benchmark: Callable, tmp_path: Path) -> None:
    if find_spec("torch") is not None:
        pytest.skip("torch is installed")
    done = benchmark("accelerator", "--out", str(tmp_path), "--tiny", "--only", "torch")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "torch.json").read_text())
    assert result["measurements"] == {}
    assert {why["reason"] for why in result["not_measured"].values()} == {
        "ModuleNotFoundError: No module named 'torch'"
    }
    assert "transformer                        not measured: ModuleNotFoundError" in done.stdout


def test_a_part_beyond_the_budget_is_skipped(benchmark: Callable, tmp_path: Path) -> None:
    done = benchmark("accelerator", "--out", str(tmp_path), "--budget", "5", "--only", "limit")
    assert done.returncode == 0, done.stderr
    skipped = json.loads((tmp_path / "limit.json").read_text())["not_measured"]
    assert skipped == {"products and copies": {"reason": "skipped, because the budget is used up"}}

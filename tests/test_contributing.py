"""The instructions of CONTRIBUTING.md, followed literally.

Its diffs are applied to a copy of the package. One run then trains a very small model with the options of all commands.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from transformer.config import ModelConfig, OptimizerConfig
from transformer.layers import NORMS
from transformer.training.optimizer import SCHEDULES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DIFFS = re.findall(r"^```diff\n\+\+\+ (\S+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^```sh\npython train\.py (.*?)\n```", TEXT, re.MULTILINE)
SMALL = """--run-dir run --model.vocabulary-size 270 --model.d-model 16 --model.num-heads 2 --model.d-ff 16
    --model.num-encoder-layers 1 --model.num-decoder-layers 1 --model.dtype float32 --optimizer.warmup-steps 3
    --optimizer.final-fraction 0 --training.steps 8 --training.log-every 1 --training.validate-every 8"""
PAIRS = 4 * [("the dog, sleeping", 'der "Hund"\nschläft'), ("a cat", "eine Katze"), ("no", "nein")]


def apply(diff: str, file: Path) -> None:
    """Replaces the lines that begin with a space or "-" by those that begin with a space or "+"."""
    before, after = ("".join(f"{line[1:]}\n" for line in diff.splitlines() if line[0] != sign) for sign in "+-")
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{file.name} must contain exactly once:\n{before}"
    file.write_text(text.replace(before, after), encoding="utf-8")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout with the new norm, schedule and format, and a run that has used all three."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("transformer", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    for name, diff in DIFFS:
        apply(diff, folder / name)
    for name in ("train.csv", "validation.csv"):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("en", "de"), *PAIRS])
    options = [option for command in (*COMMANDS, SMALL) for option in shlex.split(command)]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment.pop("PYTHONPATH", None)  # the copy is imported because it is beside train.py
    result = subprocess.run(
        [sys.executable, "train.py", *options], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def logged(checkout: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (checkout / "run" / "metrics.jsonl").read_text().splitlines()]


def test_there_are_four_sections() -> None:
    assert TEXT.count("## How to add a ") == 4  # one of them, a model family, has no example to run
    assert len(COMMANDS) == 3
    assert len(DIFFS) == TEXT.count("```diff") == 10


def test_the_norm_trains(checkout: Path) -> None:
    config = json.loads((checkout / "run" / "config.json").read_text())
    assert config["model"]["norm"] == "partial_rms"
    losses = [line["loss"] for line in logged(checkout) if "loss" in line]
    assert len(losses) == 8
    assert losses[-1] < losses[0]


def test_the_schedule_sets_the_learning_rate(checkout: Path) -> None:
    rates = [line["learning_rate"] for line in logged(checkout) if "learning_rate" in line]
    shares = [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates == pytest.approx([4e-3 * share for share in shares], rel=1e-6)


def test_the_format_is_read(checkout: Path) -> None:
    data = json.loads((checkout / "run" / "data.json").read_text())
    assert data["train"]["files"] == ["train.csv"]
    assert data["train"]["kept"] == data["validation"]["kept"] == len(PAIRS)


def test_the_diffs_keep_the_style(checkout: Path) -> None:
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        files = [str(checkout / name) for name, _ in DIFFS]
        result = subprocess.run([*ruff, *files], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("config", "field", "table"), [(ModelConfig, "norm", NORMS), (OptimizerConfig, "schedule", SCHEDULES)]
)
def test_the_config_s_choices_are_those_of_the_table(config: Any, field: str, table: dict[str, Any]) -> None:
    assert {*get_args(config.__annotations__[field])} == {*table}

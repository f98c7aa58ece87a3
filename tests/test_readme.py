"""The code blocks of README and of the pages about a trained run, as a newcomer would run them one after the other.

The first block trains the quickstart. `.ci/readme` runs the pages that train further models.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/translate-and-evaluate.md", "docs/look-inside.md")
TEXT = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
INSTALL = re.compile(r"^pip install .+? && ")


def commands(shell: str) -> list[str]:
    """The commands of a block, without the installation, which these tests need."""
    joined = re.sub(r"\s*\\\n\s*", " ", shell)
    lines = [line.split("  #")[0].strip() for line in joined.splitlines() if line.strip()]
    return [INSTALL.sub("", line) for line in lines]


SHELL = [*dict.fromkeys(command for language, block in BLOCKS if language == "sh" for command in commands(block))]
PYTHON = [block for language, block in BLOCKS if language == "python"]

WRITE_FILES = """
from pathlib import Path
from transformer.config import DataConfig
from transformer.data.corpus import read_pairs
for name, split, number in (("train", "train", 10_000), ("val", "validation", 50), ("test", "test", 50)):
    pairs, _ = read_pairs(DataConfig(corpus="package:quickstart.jsonl.xz"), split)
    for language, texts in (("en", pairs.sources), ("de", pairs.targets)):
        Path(f"{name}.{language}").write_text("".join(f"{text}\\n" for text in texts[:number]), encoding="utf-8")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkout with a home of its own and some files to train on."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "train.py").symlink_to(ROOT / "train.py")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    run(folder, sys.executable, "-c", WRITE_FILES)
    return folder


def run(folder: Path, *command: str, quick: bool = False) -> str:
    """Runs a command as users do, or with programs that are compiled quickly and run slowly."""
    home = {name: str(folder / "home") for name in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | home | {"PATH": path}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} if quick else {"XLA_FLAGS": ""}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def quickstart(folder) -> str:
    assert SHELL[0] == "python train.py"
    return run(folder, "bash", "-c", SHELL[0])


@pytest.mark.slow
def test_quickstart_learns_its_corpus(folder, quickstart):
    scores = json.loads((folder / "runs/quickstart/scores.json").read_text())
    assert scores["exact_match"]["score"] >= 95
    for tag, match in scores["exact_match_by_tag"].items():
        assert match["sentences"] >= 100, tag
        if "pronoun" in tag:
            assert match["score"] > 90, tag
    for command in (
        "transformer translate runs/quickstart",
        "transformer attention runs/quickstart",
        "transformer train",
    ):
        assert f"    {command}" in quickstart or f"| {command}" in quickstart
    assert quickstart.count("translation  ") == 5


@pytest.mark.slow
@pytest.mark.parametrize("command", SHELL[1:])
def test_commands(folder, quickstart, command):
    if command == "pytest":
        pytest.skip("that is this run")
    # Fewer steps and sentences than the command's own, to save time.
    if command.startswith("python train.py --data"):
        command += " --training.steps 20"
    if command.startswith("transformer heads") and "--sentences" not in command:
        command += " --sentences 100"
    # Most of these compile longer than they compute. Those that evaluate the run's own test set find compiled programs.
    quick = not command.startswith("python train.py") and (
        "transformer evaluate" not in command or "--source" in command
    )
    said = run(folder, "bash", "-c", command, quick=quick)
    written = re.search(r"(?:>|--output) (\S+)", command)
    assert said.strip() if written is None else (folder / written[1]).stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("program", PYTHON)
def test_python(folder, quickstart, program):
    assert run(folder, sys.executable, "-c", program, quick=True).strip()


@pytest.mark.slow
def test_the_notebook_of_the_quickstart(folder, quickstart, run_notebook):
    """It finds the run from its own folder, as Jupyter opens it."""
    file = folder / "runs/quickstart/metrics.jsonl"
    written = file.stat().st_mtime_ns
    run_notebook(
        folder / "notebooks" / "02_train_and_look.py", folder / "notebooks", JAX_DISABLE_MOST_OPTIMIZATIONS="1"
    )
    assert file.stat().st_mtime_ns == written
    assert not (folder / "notebooks" / "runs").exists()

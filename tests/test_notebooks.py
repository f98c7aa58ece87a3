"""Every notebook runs from its first cell to its last; `test_readme.py` runs the one about the quickstart's run."""

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", [file for file in NOTEBOOKS if file.stem != "02_train_and_look"], ids=lambda file: file.stem
)
def test_notebook_runs(run_notebook, file: Path, tmp_path: Path):
    run_notebook(file, tmp_path)

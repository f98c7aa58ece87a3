"""Every notebook runs from its first cell to its last; `test_readme.py` runs the one about the quickstart's run."""

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


def test_the_notebook_of_the_quickstart_says_that_there_is_no_run(tmp_path: Path, monkeypatch):
    """Its first cells, which look for the run; it trains nothing by itself."""
    file = Path(__file__).parents[1] / "notebooks" / "02_train_and_look.py"
    start = file.read_text(encoding="utf-8").partition("# ## Translate")[0]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no trained run runs/quickstart .* `python train\.py` in the project"):
        exec(start, {})
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", [file for file in NOTEBOOKS if file.stem != "02_train_and_look"], ids=lambda file: file.stem
)
def test_notebook_runs(run_notebook, file: Path, tmp_path: Path):
    run_notebook(file, tmp_path)

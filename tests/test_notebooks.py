"""Every notebook runs from its first cell to its last; `test_readme.py` runs the one about the quickstart's run."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
QUICKSTART = FOLDER / "02_train_and_look.py"
COMPUTING = ("05_complexity", "06_normalization")  # they measure times or train; the others mostly compile


def find_run() -> Path:
    """Runs the first cells of the quickstart's notebook, and returns the run that they find."""
    found = {}
    exec(QUICKSTART.read_text(encoding="utf-8").partition("# ## Translate")[0], found)
    return found["run_dir"]


def test_the_quickstart_s_notebook_says_that_there_is_no_run(tmp_path: Path, monkeypatch):
    """It trains nothing without being asked."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no trained run runs/quickstart .* `python train\.py` in the project"):
        find_run()
    assert not [*tmp_path.iterdir()]


def test_the_quickstart_s_notebook_finds_the_project_s_run_from_its_own_folder(tmp_path: Path, monkeypatch):
    """Jupyter starts a notebook in the folder that holds it."""
    run, notebooks = tmp_path / "runs" / "quickstart", tmp_path / "notebooks"
    run.mkdir(parents=True)
    notebooks.mkdir()
    (run / "scores.json").touch()
    monkeypatch.chdir(notebooks)
    assert find_run() == run


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_begins_with_its_aim_and_time_and_ends_with_something_to_try(file: Path):
    cells = file.read_text(encoding="utf-8").split("\n# %%")[1:]
    assert cells[0].startswith(" [markdown]\n# # ")
    assert "# **What you will learn.** " in cells[0]
    assert "# **Time.** About " in cells[0]
    assert "# ## Something to try\n#\n# - " in cells[-1]


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in NOTEBOOKS if file != QUICKSTART], ids=lambda file: file.stem)
def test_notebook_runs(run_notebook, file: Path, tmp_path: Path):
    variables = {"XLA_FLAGS": ""} if file.stem in COMPUTING else {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    run_notebook(file, tmp_path, **variables)

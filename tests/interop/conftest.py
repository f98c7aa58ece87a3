import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call
from marian_model import TINY

import transformer
from transformer.run import Run


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentencepiece")
    run_dir = tmp_path_factory.mktemp("marian") / "run"
    result = call("import", str(TINY), str(run_dir))
    assert (result.status, result.out) == (0, f"{run_dir}: a marian model with 232,424 parameters\n")
    return run_dir


@pytest.fixture(scope="session")
def run(run_dir: Path) -> Run:
    return transformer.load(run_dir)


@pytest.fixture
def model_folder(tmp_path: Path) -> Iterator[Path]:
    """A copy of the model that a test may damage. Afterwards, nothing has been written beside it."""
    pytest.importorskip("sentencepiece")
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    yield folder
    assert {path.name for path in tmp_path.iterdir()} == {"model"}

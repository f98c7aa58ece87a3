"""Every notebook runs from its first cell to its last."""

import os
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs(file: Path, tmp_path: Path):
    places = {name: str(tmp_path) for name in ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")}
    client = NotebookClient(jupytext.read(file), timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    notebook = client.execute(env=os.environ | places)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type != "stream" or output.text.strip() for output in outputs)
    assert not [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]

"""A run that version 0.1 made, with batch norm, pre-norm and two layers each side, still translates and evaluates."""

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from transformer.checkpoint_arrays import load_params
from transformer.cli import main
from transformer.errors import InputError
from transformer.inference.translator import load
from transformer.kept_pairs import read_test_set
from transformer.run_dir import check_run, checkpoint_steps, read_config
from transformer.status import read_status

FIXTURE = Path(__file__).parent / "fixtures" / "run-0.1.tar.xz"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as version 0.1 left it, without what only resuming would need."""
    folder = tmp_path_factory.mktemp("version-0.1")
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "run-0.1"


def test_it_translates_and_scores_as_it_did(run_dir):
    expected = json.loads((run_dir / "scores.json").read_text(encoding="utf-8"))
    scores, hypotheses = load(run_dir).evaluate(read_test_set(run_dir, read_config(run_dir).data))
    assert hypotheses == (run_dir / "hypotheses.txt").read_text(encoding="utf-8").splitlines()
    assert scores.bleu.score == pytest.approx(expected["bleu"]["score"])
    assert scores.loss == pytest.approx(expected["loss"], rel=1e-5)


def test_its_layers_are_stacked_in_their_order(run_dir):
    variables = load_params(run_dir, checkpoint_steps(run_dir))
    for name, stack in (("encoder", {"self_attention"}), ("decoder", {"self_attention", "cross_attention"})):
        layers = variables["params"][name]["layers"]
        assert set(layers) == {*stack, "feed_forward", *(f"{part}_norm" for part in (*stack, "feed_forward"))}
        kernels = layers["feed_forward"]["kernel_in"]
        assert kernels.shape == (2, 16, 32)
        assert not np.array_equal(*kernels)
        assert variables["params"][name]["norm"]["scale"].shape == (16,)
        assert variables["batch_stats"][name]["layers"]["feed_forward_norm"]["norm"]["mean"].shape == (2, 16)


def test_its_status_is_known(run_dir):
    status = read_status(run_dir)
    assert (status.state, status.step, status.steps, status.last_start) == ("scored", 300, 300, None)
    assert status.best_validation_loss == pytest.approx(0.4224525, rel=1e-6)
    assert status.last_checkpoint is not None
    assert (status.last_checkpoint.step, status.last_checkpoint.complete) == (300, None)


def test_it_is_not_resumed(run_dir, monkeypatch, capsys):
    config = read_config(run_dir)
    with pytest.raises(InputError, match=r"Cannot resume .* version 0\.1"):
        check_run(run_dir, config)
    monkeypatch.chdir(run_dir.parent)
    for split in ("train", "validation", "test"):
        for name in getattr(config.data, split):
            Path(name).write_text("cat tree\n", encoding="utf-8")
    before = sorted((path, path.stat().st_mtime_ns) for path in run_dir.rglob("*"))
    Path("config.py").write_text(
        f"from transformer.config import *\nconfig = {dataclasses.replace(config, run_dir='run-0.1')!r}\n",
        encoding="utf-8",
    )
    assert main(["train", "--config", "config.py"]) == 2
    assert "version 0.1" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in run_dir.rglob("*")) == before


def test_fields_that_no_longer_exist_are_ignored_and_others_refused(run_dir, tmp_path):
    values = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    assert "num_shapes" in values["training"]
    values["training"]["new_field"] = 1
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match=r"a field training\.new_field that this version"):
        read_config(tmp_path)

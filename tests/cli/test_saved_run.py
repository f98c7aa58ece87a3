"""Changed parameters that `run.save` writes as a run directory for every command."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from command_line import call

import transformer
from transformer import Run, parameters
from transformer.errors import InputError
from transformer.run_dir import is_finished, read_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def changed(corpus, trained) -> Run:
    run = transformer.load(f"{corpus}/run")
    assert run.checkpoints == (10, 20)
    return dataclasses.replace(run, params=jax.tree.map(lambda leaf: 0.5 * leaf, run.params))


@pytest.fixture(scope="module")
def saved(changed, tmp_path_factory) -> Path:
    return changed.save(tmp_path_factory.mktemp("saved") / "changed")


def test_it_comes_back(corpus, changed, saved):
    again = transformer.load(saved)
    jax.tree.map(np.testing.assert_array_equal, again.params, changed.params)
    assert (again.run_dir, again.checkpoints) == (saved, (20,))
    assert again.config == dataclasses.replace(changed.config, run_dir=str(saved)) == read_config(saved)
    assert again.num_parameters == changed.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(changed.params))
    assert again.translate(["red house"]) == changed.translate(["red house"])
    before = {path.name: path.read_bytes() for path in (corpus / "run").iterdir() if path.is_file()}
    copied = {path.name for path in saved.iterdir() if path.is_file() and path.read_bytes() == before[path.name]}
    assert {"data.json", "metrics.jsonl", "test.jsonl", "tokenizer.json"} <= copied
    assert not {"scores.json", "hypotheses.txt", "starts.jsonl"} & {path.name for path in saved.iterdir()}


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "{}", "--json"),
        ("translate", "{}", "--ensemble", "{}@20"),
        ("tune", "{}", "--beams", "1", "--alphas", "1"),
        ("score", "{}", "--source", "{corpus}/test.en", "--target", "{corpus}/test.de"),
        ("export", "{}", "{}.export"),
        ("attention", "{}", "--source", "red house", "--output", "{}.html"),
        ("heads", "{}", "--sentences", "1"),
        ("figures", "{}", "--output", "{}-figures"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_works_on_it(corpus, saved, arguments):
    given = [argument.format(saved, corpus=corpus) for argument in arguments]
    found = call(*given, stdin="red house\n")
    assert found.status == 0, found.err


def test_training_resumes_from_it(corpus, command, changed, saved):
    """It is at its last step, so only the scores are left to compute."""
    assert is_finished(saved)
    found = call(*command, "--run-dir", str(saved))
    assert (found.status, found.err) == (0, "")
    scores = json.loads((saved / "scores.json").read_text())
    assert scores["loss"] == pytest.approx(changed.loss(*read(saved)), rel=1e-5)
    assert call("compare", f"{corpus}/run", str(saved), "--sentences", "1").status == 0


def read(run_dir: Path) -> tuple[list[str], list[str]]:
    rows = [json.loads(line) for line in (run_dir / "test.jsonl").read_text().splitlines()]
    return [row["en"] for row in rows], [row["de"] for row in rows]


def test_what_cannot_be_saved(changed, saved, tmp_path):
    with pytest.raises(InputError, match=r"changed: it already exists\. Give a new directory\."):
        changed.save(saved)
    with pytest.raises(InputError, match="Cannot save an ensemble as one run"):
        dataclasses.replace(changed, others=changed.members).save(tmp_path / "both")
    params: Any = changed.params
    larger = {"params": {**params["params"], "embedding": np.zeros((301, 8), np.float32)}}
    with pytest.raises(InputError, match=r"\['embedding'\] is \[301, 8\], but \[300, 8\] was expected"):
        dataclasses.replace(changed, params=larger).save(tmp_path / "larger")
    with pytest.raises(InputError, match=r"is missing, but \[1, .* was expected"):
        dataclasses.replace(changed, params={"params": {"embedding": params["params"]["embedding"]}}).save(
            tmp_path / "few"
        )
    assert not [*tmp_path.iterdir()]


def test_a_run_that_was_never_trained_has_its_last_step(changed, tmp_path):
    drawn = dataclasses.replace(changed, params=parameters.draw(changed.model, 1), checkpoints=(), run_dir=None)
    directory = drawn.save(tmp_path / "drawn")
    assert sorted(path.name for path in directory.iterdir()) == ["checkpoints", "config.json", "tokenizer.json"]
    assert transformer.load(directory).checkpoints == (drawn.config.training.steps,)

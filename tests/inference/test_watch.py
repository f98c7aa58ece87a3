import dataclasses
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from transformer.checkpoint import Checkpoints
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.inference import watch as watching
from transformer.inference.translator import load
from transformer.inference.watch import watch
from transformer.run_dir import open_run

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAIRS = Pairs(["seven men", "the sea", "then see"], ["seven seas", "the men", "see the sea"])


class State(NamedTuple):
    params: Any
    batch_stats: Any
    step: Any


@pytest.fixture(scope="module")
def trained(random_translator, tmp_path_factory) -> Path:
    """A run of thirty steps that has come to its end."""
    config = random_translator.config
    training = dataclasses.replace(config.training, steps=30, validate_every=10, patience=2)
    run_dir = open_run(tmp_path_factory.mktemp("trained"), dataclasses.replace(config, training=training))
    random_translator.tokenizer.save(run_dir / "tokenizer.json")
    with Checkpoints(run_dir, 5, random_translator.tokenizer.fingerprint) as checkpoints:
        for step in (10, 20, 30):
            params = jax.tree.map(lambda leaf, step=step: leaf * (1 - step / 100), random_translator.params["params"])
            checkpoints.save(step, State(params, {}, step), {"validation_loss": 1.0 + step})
    return run_dir


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """The same run before its first checkpoint."""
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(trained / name, run_dir)
    return run_dir


def publish(trained: Path, run: Path, step: int) -> None:
    """A checkpoint appears, whole."""
    shutil.copytree(trained / "checkpoints" / str(step), run / f"{step}.new")
    (run / f"{step}.new").rename(run / "checkpoints" / str(step))


def test_each_checkpoint_is_scored_once_as_it_appears(trained, run, random_translator):
    search, lines = random_translator.config.search, []

    def train() -> None:
        for step in (10, 20, 30):
            time.sleep(0.1)
            publish(trained, run, step)

    job = threading.Thread(target=train)
    job.start()
    watch(run, PAIRS, search, interval=0.05, report=lines.append)
    job.join()
    assert [line.split(": ")[0] for line in lines] == ["step 10", "step 20", "step 30"]
    folder = run / "evaluation"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{step}.{kind}" for step in (10, 20, 30) for kind in ("json", "txt")
    )
    scores, hypotheses = load(run, 20).evaluate(PAIRS, search)
    record = json.loads((folder / "20.json").read_text())
    assert record["scores"] == json.loads(scores.to_json())
    assert (folder / "20.txt").read_text().splitlines() == hypotheses
    assert f"BLEU {scores.bleu.score:.2f}" in lines[1]
    assert f"loss {scores.loss:.4f}" in lines[1]

    # A second watcher scores what it would score otherwise, and nothing else.
    (folder / "20.json").unlink()
    watch(run, PAIRS, search, report=lines.append)
    assert [line.split(": ")[0] for line in lines[3:]] == ["step 20"]
    assert json.loads((folder / "20.json").read_text()) == record
    watch(run, PAIRS, dataclasses.replace(search, length_penalty=0.7), report=lines.append)
    assert len(lines) == 7


def test_a_checkpoint_that_is_deleted_meanwhile_is_skipped(trained, run, random_translator, monkeypatch):
    lines = []
    publish(trained, run, 10)
    publish(trained, run, 30)

    def load_too_late(run_dir: Path, step: int, average: int, dtype: None) -> Any:
        if step == 10:
            shutil.rmtree(run / "checkpoints" / "10")
        return load(run_dir, step, average, dtype)

    monkeypatch.setattr(watching, "load", load_too_late)
    watch(run, PAIRS, random_translator.config.search, average=2, report=lines.append)
    assert lines[0] == "step 10: deleted before it could be scored"
    assert [line.split(": ")[0] for line in lines[1:]] == ["step 30"]


def test_a_damaged_checkpoint_is_an_error(trained, run, random_translator):
    publish(trained, run, 30)
    shutil.rmtree(run / "checkpoints" / "30" / "params")
    with pytest.raises(InputError, match="step 30"):
        watch(run, PAIRS, random_translator.config.search, interval=0.01)


def test_what_is_averaged_with_a_checkpoint_may_be_deleted_meanwhile(trained, run, random_translator, monkeypatch):
    lines = []
    publish(trained, run, 20)
    publish(trained, run, 30)

    def load_too_late(run_dir: Path, step: int, average: int, dtype: None) -> Any:
        if step == 30 and average == 2:
            shutil.rmtree(run / "checkpoints" / "20", ignore_errors=True)
        return load(run_dir, step, average, dtype)

    monkeypatch.setattr(watching, "load", load_too_late)
    watch(run, PAIRS, random_translator.config.search, average=2, interval=0.01, report=lines.append)
    assert [line.split(": ")[0] for line in lines] == ["step 20", "step 30"]
    assert json.loads((run / "evaluation" / "30.json").read_text())["averaged"] == 1

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
from transformer.config import ScoresConfig
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.inference import watch as watching
from transformer.inference.metrics import Metrics
from transformer.inference.results import read_result
from transformer.inference.translator import load
from transformer.inference.watch import watch
from transformer.run_dir import open_run

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAIRS = Pairs(["seven men", "the sea", "then see"], ["seven seas", "the men", "see the sea"])


class State(NamedTuple):
    params: Any
    step: Any


@pytest.fixture(scope="module")
def trained(random_translator, tmp_path_factory) -> Path:
    """A finished run of thirty steps."""
    config = random_translator.config
    training = dataclasses.replace(config.training, steps=30, validate_every=10, patience=2)
    run_dir = open_run(tmp_path_factory.mktemp("trained"), dataclasses.replace(config, training=training))
    random_translator.tokenizer.save(run_dir / "tokenizer.json")
    with Checkpoints(run_dir, 5, random_translator.tokenizer.fingerprint) as checkpoints:
        for step in (10, 20, 30):
            params = jax.tree.map(lambda leaf, step=step: leaf * (1 - step / 100), random_translator.params)
            checkpoints.save(step, State(params, step), {"validation_loss": 1.0 + step})
    return run_dir


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """The same run before its first checkpoint."""
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(trained / name, run_dir)
    return run_dir


def publish(trained: Path, run: Path, *steps: int) -> None:
    """Makes checkpoints appear, each atomically."""
    for step in steps:
        shutil.copytree(trained / "checkpoints" / str(step), run / f"{step}.new")
        (run / f"{step}.new").rename(run / "checkpoints" / str(step))


def test_each_checkpoint_is_scored_once_as_it_appears(trained, run, random_translator):
    search, lines, notes = random_translator.config.search, [], []

    def train() -> None:
        for step in (10, 20, 30):
            time.sleep(0.1)
            publish(trained, run, step)

    job = threading.Thread(target=train)
    job.start()
    watch(run, PAIRS, search, interval=0.05, report=lines.append, note=notes.append)
    job.join()
    assert notes[0] == "waiting for the first checkpoint (checking every 0.05 s)"
    assert {*notes[1:]} <= {f"waiting for a checkpoint after step {step} (checking every 0.05 s)" for step in (10, 20)}
    assert len({*notes}) == len(notes)
    assert [line.split(": ")[0] for line in lines] == ["step 10", "step 20", "step 30"]
    folder = run / "evaluation"
    assert sorted(path.name for path in folder.iterdir()) == ["10", "20", "30"]
    scores, hypotheses = load(run, 20).evaluate(PAIRS, search)
    assert (folder / "20" / "scores.json").read_text() == scores.to_json()
    kept = read_result(folder / "20")
    assert (kept.hypotheses, kept.config["checkpoints"]) == (hypotheses, [20])
    assert f"BLEU {scores.bleu.score:.2f}" in lines[1]
    assert f"loss {scores.loss:.4f}" in lines[1]

    # A second watcher scores what is not there, and nothing else.
    shutil.rmtree(folder / "20")
    watch(run, PAIRS, search, report=lines.append)
    assert [line.split(": ")[0] for line in lines[3:]] == ["step 20"]
    assert read_result(folder / "20") == kept
    other_pairs = Pairs(PAIRS.targets, PAIRS.sources)
    for pairs, penalty, other in ((other_pairs, 0.6, "sentences"), (PAIRS, 0.7, "search options")):
        with pytest.raises(InputError, match=f"Step 10 in .*evaluation was scored with other {other}"):
            watch(run, pairs, dataclasses.replace(search, length_penalty=penalty), report=lines.append)
    with pytest.raises(InputError, match=r"Step 10 in .*evaluation was scored with --dtype float32"):
        watch(run, PAIRS, search, dtype="bfloat16", report=lines.append)
    with pytest.raises(InputError, match=r"Step 10 in .*evaluation was scored with other metrics"):
        watch(run, PAIRS, search, metrics=Metrics(ScoresConfig(tokenize="char")), report=lines.append)
    watch(run, PAIRS, dataclasses.replace(search, length_penalty=0.7), run / "other", report=lines.append)
    assert len(lines) == 7
    config = run / "config.json"
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(InputError, match=r"Step 10 in .*evaluation was scored with the model of another run"):
        watch(run, PAIRS, search, report=lines.append)


def test_checkpoints_may_be_deleted_meanwhile(trained, run, random_translator, monkeypatch):
    """Step 10 is deleted before scoring, and step 20 before averaging with step 30."""
    lines, deleted = [], {10: 10, 30: 20}
    publish(trained, run, 10, 20, 30)

    def load_too_late(run_dir: Path, step: int, average: int, dtype: None) -> Any:
        if step in deleted:
            shutil.rmtree(run / "checkpoints" / str(deleted[step]), ignore_errors=True)
        return load(run_dir, step, average, dtype)

    monkeypatch.setattr(watching, "load", load_too_late)
    watch(run, PAIRS, random_translator.config.search, average=2, interval=0.01, report=lines.append)
    assert lines[0] == "step 10: deleted before it could be scored"
    assert [line.split(": ")[0] for line in lines[1:]] == ["step 20", "step 30"]
    checkpoints = [read_result(run / "evaluation" / name).config["checkpoints"] for name in ("20", "30")]
    assert checkpoints == [[20], [30]]


def test_evaluations_with_another_average_are_not_mixed(trained, run, random_translator):
    """Not even if fewer checkpoints than requested existed, and averages are equal."""
    search, lines = random_translator.config.search, []
    publish(trained, run, 10, 20)
    with pytest.raises(RuntimeError, match="interrupted"):  # once both are scored, and before step 30 is saved
        watch(run, PAIRS, search, average=3, report=lines.append, note=interrupt)
    kept = {step: read_result(run / "evaluation" / str(step)) for step in (10, 20)}
    assert [(kept[step].config["checkpoints"], kept[step].average) for step in kept] == [([10], 3), ([10, 20], 3)]
    shutil.rmtree(run / "checkpoints" / "10")
    publish(trained, run, 30)
    for average in (1, 2):
        message = "Step 10 in .*evaluation was scored with --average 3. Give another folder with --output"
        with pytest.raises(InputError, match=message):
            watch(run, PAIRS, search, average=average, report=lines.append)
    watch(run, PAIRS, search, average=3, report=lines.append)
    assert [line.split(": ")[0] for line in lines] == ["step 10", "step 20", "step 30"]
    assert read_result(run / "evaluation" / "30").config["checkpoints"] == [20, 30]


def interrupt(_: str) -> None:
    raise RuntimeError("interrupted")


@pytest.mark.parametrize(("kept", "asked"), [(1, 2), (2, 1)])
def test_an_evaluation_that_does_not_say_its_average_has_that_of_its_checkpoints(
    trained, run, random_translator, kept, asked
):
    search, file = random_translator.config.search, run / "evaluation" / "30" / "evaluation.json"
    publish(trained, run, 20, 30)
    watch(run, PAIRS, search, average=kept)
    shutil.rmtree(run / "evaluation" / "20")
    about = json.loads(file.read_text())
    del about["average"]
    file.write_text(json.dumps(about))
    with pytest.raises(InputError, match=f"Step 30 in .*evaluation was scored with --average {kept}"):
        watch(run, PAIRS, search, average=asked)
    watch(run, PAIRS, search, average=kept)


def test_a_damaged_checkpoint_is_named_and_the_others_are_scored(trained, run, random_translator):
    lines = []
    publish(trained, run, 10, 20, 30)
    (run / "checkpoints" / "20" / "params" / "manifest.ocdbt").write_bytes(b"damaged")
    watch(run, PAIRS, random_translator.config.search, interval=0.01, report=lines.append)
    assert [line.split(": ")[0] for line in lines] == ["step 10", "step 20", "step 30"]
    assert "not scored. The checkpoint of step 20" in lines[1]
    assert "(params/manifest.ocdbt)" in lines[1]
    assert sorted(path.name for path in (run / "evaluation").iterdir()) == ["10", "30"]

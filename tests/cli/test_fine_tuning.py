"""`transformer train --init-from RUN`: what the new run takes from RUN, what it keeps of it, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from command_line import Result, assert_refused, call, contents
from flax.traverse_util import flatten_dict

import transformer
from transformer import Config, Run, parameters
from transformer.checkpoint_arrays import load_params
from transformer.config_files import from_json, to_json
from transformer.model import Transformer
from transformer.run_dir import read_config, saved_steps
from transformer.training import loop
from transformer.training.step import TrainState

pytestmark = pytest.mark.usefixtures("quick_compilation")

FROZEN = ("encoder/*", "embedding")


class Tuned(NamedTuple):
    """A fine-tuned run, its beginning, and what it started from."""

    command: list[str]
    run: Path
    first: TrainState
    origin: Path
    started_from: Any
    result: Result


def flat(variables: Any) -> dict[str, np.ndarray]:
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}


def assert_equal(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), expected)


@pytest.fixture(scope="module")
def tuned(corpus, trained, tmp_path_factory) -> Tuned:
    """Fine-tunes a copy of the run on other pairs, and deletes the copy."""
    folder, states = tmp_path_factory.mktemp("tuned"), []
    origin = shutil.copytree(corpus / "run", folder / "origin")
    started_from = load_params(origin, [10, 20])
    command = [
        *("train", "--init-from", f"{origin}/", "--run-dir", f"{folder}/run"),
        *("--data.train", f"{corpus}/test.en", f"{corpus}/test.de"),
        *("--data.validation", f"{corpus}/val.en", f"{corpus}/val.de"),
        *("--training.steps", "6", "--training.validate-every", "2", "--training.freeze", *FROZEN),
    ]

    def create_state(*arguments: Any) -> TrainState:
        states.append(loop_create_state(*arguments))
        return jax.device_get(states[-1])

    loop_create_state = loop.create_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "create_state", create_state)
        result = call(*command)
    first = jax.device_get(states[0])
    shutil.move(origin, folder / "moved")
    return Tuned(command, folder / "run", first, origin, started_from, result)


def test_it_starts_with_the_parameters_of_the_run(tuned):
    """RUN alone is what every command uses: the mean of as many checkpoints as its config says."""
    assert (tuned.result.status, tuned.result.err) == (0, "")
    assert_equal(tuned.first.params, tuned.started_from)
    assert int(tuned.first.step) == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(tuned.first.optimizer_state))  # fresh moments and counts


def test_frozen_parameters_keep_every_bit_and_have_no_moments(tuned):
    before, after = flat(tuned.started_from), flat(load_params(tuned.run, [6]))
    frozen = {name for name in before if name.startswith(("params/encoder/", "params/embedding"))}
    assert 0 < len(frozen) < len(before)
    for name, values in before.items():
        assert (values.tobytes() == after[name].tobytes()) == (name in frozen), name
    trained = sum(values.size for name, values in before.items() if name not in frozen)
    moments = sum(np.size(leaf) for leaf in jax.tree.leaves(tuned.first.optimizer_state))
    assert moments == 2 * trained + len({"count of Adam", "count of the schedule"})
    total = sum(values.size for values in before.values())
    assert f"model: {total:,} parameters, {total - trained:,} of them frozen" in tuned.result.out


def test_the_config_is_that_of_the_run_with_a_gentle_schedule(tuned, corpus):
    config, origin = read_config(tuned.run), read_config(corpus / "run")
    assert config.init_from == str(tuned.origin)
    for part in ("model", "search", "scores", "tokenizer"):
        assert getattr(config, part) == getattr(origin, part)
    assert (config.data.max_length, config.training.batch_tokens) == (32, 512)
    assert (config.training.validation_bleu, config.average) == (False, 1)
    assert config.optimizer.schedule == "warmup_stable_decay"
    assert config.optimizer.peak == pytest.approx(0.04 / 8)
    assert (tuned.run / "tokenizer.json").read_bytes() == (corpus / "run" / "tokenizer.json").read_bytes()


def test_the_origin_is_recorded_and_shown(tuned, corpus):
    about = json.loads((tuned.run / "origin.json").read_text())
    digest = parameters.fingerprint(tuned.started_from)
    assert (about["run"], about["steps"], about["sha256"]) == (str(tuned.origin), [10, 20], digest)
    assert from_json(json.dumps(about["config"])) == read_config(corpus / "run")
    assert f"starting from {tuned.origin}, steps 10 and 20 (SHA-256 {digest[:12]}...)\n" in tuned.result.out
    lines = [json.loads(line) for line in (tuned.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_loss" in line] == [2, 4, 6]


def test_it_resumes_bit_for_bit_without_the_run_or_the_option(tuned, tmp_path):
    run = shutil.copytree(tuned.run, tmp_path / "run")
    for step in (4, 6):
        shutil.rmtree(run / "checkpoints" / str(step))
    result = call("train", "--run-dir", str(run))
    assert (result.status, result.err) == (0, "")
    assert "resuming from step 2\n" in result.out
    assert "starting from" not in result.out
    assert saved_steps(run) == [2, 4, 6]
    assert_equal(load_params(run, [6]), load_params(tuned.run, [6]))
    assert (run / "origin.json").read_bytes() == (tuned.run / "origin.json").read_bytes()
    assert "is already finished" in call(*tuned.command).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init-from", "elsewhere"], r"--init-from was '.*/origin' and is now 'elsewhere'\. Give the same config"),
        (["--config", "{corpus}/tiny.py"], r"--init-from was '.*/origin' and is now None"),
        (["--training.freeze", "embedding"], r"--training\.freeze was \('encoder/\*', 'embedding'\) and is now"),
    ],
)
def test_another_start_is_refused_on_resuming(tuned, corpus, arguments, message):
    before = contents(tuned.run)
    given = [argument.format(corpus=corpus) for argument in arguments]
    data = [] if "--config" not in given else ["--data.train", f"{corpus}/test.en", f"{corpus}/test.de"]
    assert_refused(call("train", *given, *data, "--run-dir", str(tuned.run)), message)
    assert contents(tuned.run) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--run-dir", "{run}"],
            r"--init-from .*/run is the run directory itself\. Give another --run-dir to fine-tune",
        ),
        (
            ["--init-from", "{tmp}/none"],
            r"/none is not a run directory: it has no config\.json\. --init-from takes .* import`",
        ),
        (["--init-from", "{tmp}/empty"], r"No checkpoint found in .*/empty/checkpoints\."),
        (["--init-from", "{run}@15"], r"Cannot find the checkpoint of step 15: .* of steps 10, 20\."),
        (["--init-from", "{run}@first"], r"names no checkpoint\. Write RUN@STEP, RUN@best or RUN@last\."),
        (
            ["--model.d-ff", "32"],
            r"^error: Cannot start from .*/run with another model: --model\.d-ff was 16 and is now",
        ),
        (
            ["--config", "quickstart", "--data.corpus", "files"],
            r"--model\.vocabulary-size was 300 and is now 2000, and",
        ),
        (["--tokenizer.end-id", "5"], r"another model: --tokenizer\.end-id was 2 and is now 5\. Leave out --config"),
        (["--data.normalization", "none"], r"--data\.normalization was 'nfc' and is now 'none'"),
        (
            ["--tokenizer.file", "{tmp}/other.json"],
            r"other\.json is not the tokenizer that the run in .*/run was trained",
        ),
        (
            ["--training.freeze", "encodr/*"],
            r"--training\.freeze encodr/\* matches no parameter\. .*, embedding, encoder/",
        ),
        (["--training.freeze", "*"], r"--training\.freeze \* leaves no parameter to train"),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused_and_leaves_no_trace(corpus, run, tmp_path, arguments, message):
    shutil.copytree(run, tmp_path / "empty", ignore=shutil.ignore_patterns("checkpoints"))
    text = (Path(run) / "tokenizer.json").read_text()
    (tmp_path / "other.json").write_text(f"{text}\n")  # the same tokens in another file
    given = {"--init-from": [run], "--run-dir": [f"{tmp_path}/new"]}
    given["--data.train"] = [f"{corpus}/test.en", f"{corpus}/test.de"]
    option: Any = None
    for argument in arguments:
        if argument.startswith("--"):
            given[option := argument] = []
        else:
            given[option].append(argument.format(run=run, tmp=tmp_path))
    before = contents(tmp_path)
    assert_refused(call("train", *(part for name, values in given.items() for part in (name, *values))), message)
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_batch_norm_starts_with_its_running_statistics(corpus, trained, tmp_path):
    """From Python, with a checkpoint that is chosen by its step. Freezing parameters does not freeze statistics."""
    run = transformer.load(corpus / "run")
    config = dataclasses.replace(
        run.config, model=dataclasses.replace(run.config.model, norm="batch", batch_norm_momentum=0.9999)
    )
    variables: Any = parameters.draw(Transformer(config.model), 1)
    variables = {name: jax.tree.map(lambda leaf: leaf + np.float32(0.25), tree) for name, tree in variables.items()}
    Run(config, Transformer(config.model), variables, run.tokenizer).save(tmp_path / "normed")

    config = transformer.fine_tuning_config(f"{tmp_path}/normed@20")
    data = dataclasses.replace(config.data, train=(f"{corpus}/test.en", f"{corpus}/test.de"))
    training = dataclasses.replace(config.training, steps=1, freeze=("encoder/*", "decoder/layers/*"))
    transformer.train(dataclasses.replace(config, run_dir=str(tmp_path / "new"), data=data, training=training))
    before, after = flat(variables), flat(load_params(tmp_path / "new", [1]))
    for name, values in before.items():
        if name.startswith("batch_stats/"):
            assert 0 < np.abs(values - after[name]).max() < 0.1, name  # one step of a slow running average
        elif name.startswith("params/encoder/"):
            np.testing.assert_array_equal(values, after[name])
    assert json.loads((tmp_path / "new" / "origin.json").read_text())["steps"] == [20]


def test_a_config_keeps_its_own_schedule_and_fits_the_run(corpus, run, tmp_path, monkeypatch):
    """`--config` gives everything but the parameters, so what does not fit would be refused."""
    given: list[Config] = []
    monkeypatch.setattr(loop, "train", lambda config, *_, **__: given.append(config))
    path = tmp_path / "own.py"
    path.write_text((corpus / "tiny.py").read_text().replace("max_positions=64", "max_positions=80, dropout=0.3"))
    files = [f"{corpus}/test.en", f"{corpus}/test.de"]
    done = call(
        "train", "--config", str(path), "--init-from", run, "--data.train", *files, "--run-dir", f"{tmp_path}/n"
    )
    assert (done.status, done.err) == (0, "")
    (config,) = given
    assert (config.optimizer.schedule, config.model.dropout, config.model.max_positions) == ("paper", 0.3, 80)
    assert from_json(to_json(config)) == config

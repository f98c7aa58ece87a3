import dataclasses
import itertools
import json
import random
import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics import quick_jit

from transformer.checkpoint import Checkpoints
from transformer.checkpoint_arrays import load_params
from transformer.checkpoint_records import records
from transformer.config import Config, DataConfig, ModelConfig, OptimizerConfig, SearchConfig, TrainingConfig
from transformer.data.batches import Batches
from transformer.data.corpus import Pairs, Report
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokens import tokenize
from transformer.errors import DivergenceError
from transformer.inference.translator import load
from transformer.interruption import Interrupted
from transformer.model import Transformer
from transformer.run_dir import open_run, saved_steps
from transformer.shapes import Batch
from transformer.training import loop
from transformer.training import step as step_module
from transformer.training.optimizer import make_optimizer
from transformer.training.step import batch_loss, create_state, train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

STEPS, EVERY = 12, 4
PARTS = ("", "/embedding", "/encoder/0", "/decoder/0")


def train(config: Config, batches: Batches, **arguments: Any) -> None:
    with Checkpoints(open_run(config.run_dir, config), config.training.keep_last, "print") as checkpoints:
        loop.train(
            config, batches, arguments.pop("validation_batches", None), checkpoints, dtype="float32", **arguments
        )


def read_metrics(config: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]


def checkpoint_steps(config: Config) -> list[int]:
    return sorted(int(path.name) for path in (Path(config.run_dir) / "checkpoints").iterdir())


def last_params(run_dir: str | Path) -> Any:
    return load_params(run_dir, saved_steps(run_dir)[-1:])


def in_run_dir(config: Config, run_dir: Path, **training: Any) -> Config:
    return dataclasses.replace(config, run_dir=str(run_dir), training=dataclasses.replace(config.training, **training))


@pytest.fixture(scope="module")
def config(tiny_model, tmp_path_factory) -> Config:
    return Config(
        run_dir=str(tmp_path_factory.mktemp("uninterrupted")),
        data=DataConfig(max_length=32),
        model=tiny_model,
        optimizer=OptimizerConfig(warmup_steps=4, scale=0.1),
        training=TrainingConfig(steps=STEPS, log_every=3, validate_every=EVERY, keep_last=3),
    )


@pytest.fixture(scope="module")
def finished(config, tiny_batches) -> dict[str, Any]:
    """Trains an uninterrupted run; returns the variables given to `evaluate`, and how often the steps were traced."""
    seen: dict[str, Any] = {"variables": [], "train": 0, "eval": 0}

    def evaluate(variables: Any) -> dict[str, float]:
        seen["variables"].append(jax.device_get(variables))
        return {"validation_bleu": float(len(seen["variables"]))}

    with pytest.MonkeyPatch.context() as patch:
        for module, kind in ((step_module, "train"), (loop, "eval")):
            step = getattr(module, f"{kind}_step")

            def traced(*args: Any, kind: str = kind, step: Any = step, **kwargs: Any) -> Any:
                seen[kind] += 1
                return step(*args, **kwargs)

            patch.setattr(module, f"{kind}_step", traced)
        validation = tiny_batches(pairs=9, shuffle=False)
        train(config, tiny_batches(), validation_batches=validation, evaluate=evaluate)
    return seen


def test_loss_falls(config, finished):
    losses = [line["loss"] for line in read_metrics(config) if "loss" in line]
    assert losses[-1] < losses[0] - 0.3
    assert losses[0] == pytest.approx(np.log(270), rel=0.2)


def test_each_step_is_compiled_once(config, finished, tiny_batches):
    assert 2 * tiny_batches().per_epoch <= STEPS
    assert (finished["train"], finished["eval"]) == (1, 1)


def test_metrics_of_every_window_and_validation(config, finished, tiny_batches):
    lines, batches = read_metrics(config), tiny_batches()
    assert [line["step"] for line in lines] == [3, 4, 4, 6, 8, 8, 9, 12, 12]
    for line in lines:
        if "loss" in line:
            norms = {f"{what}_norm{part}" for what in ("gradient", "update") for part in PARTS}
            assert set(line) == {"step", "loss", "learning_rate", "padding", "tokens_per_second", *norms}
        else:
            assert set(line) == {"step", "validation_loss", "validation_bleu"}
    assert lines[0]["learning_rate"] == pytest.approx(0.1 * 8**-0.5 * 3 * 4**-1.5)
    assert [line["validation_bleu"] for line in lines if "validation_bleu" in line] == [1, 2, 3]
    masks = [np.concatenate([batches[n].source_mask, batches[n].target_mask], axis=1) for n in range(STEPS)]
    windows = [(0, 3), (3, 4), (4, 6), (6, 8), (8, 9), (9, 12)]
    padding = [1 - np.mean(masks[start:stop]) for start, stop in windows]
    assert [line["padding"] for line in lines if "padding" in line] == pytest.approx(padding)


def test_evaluate_is_given_what_the_checkpoint_has(config, finished):
    for step, variables in zip((4, 8, 12), finished["variables"], strict=True):
        jax.tree.map(np.testing.assert_array_equal, load_params(config.run_dir, [step]), variables)


def test_a_finished_run_does_nothing(config, finished, tiny_batches):
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (Path(config.run_dir) / "checkpoints").rglob("*")}

    before, lines = files(), read_metrics(config)
    train(config, tiny_batches(), evaluate=pytest.fail)
    assert files() == before
    assert read_metrics(config) == lines


def test_an_interrupted_run_resumes_bit_for_bit(config, finished, tiny_batches, tmp_path, monkeypatch):
    """It resumes from step 5, between two lines of the log. Each reading of the clock finds a minute passed."""
    broken = in_run_dir(config, tmp_path, save_minutes=1.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=itertools.count(step=60).__next__))
    bleu = itertools.count(1.0)

    def train_once(**arguments: Any) -> None:
        validation = tiny_batches(pairs=9, shuffle=False)
        evaluate = lambda _: {"validation_bleu": next(bleu)}  # noqa: E731
        train(broken, tiny_batches(**arguments), validation_batches=validation, evaluate=evaluate)

    with pytest.raises(InterruptedError):
        train_once(interrupted_at=5)
    assert [(record.step, record.resume_only) for record in records(tmp_path)] == [(4, False), (5, True)]
    train_once()
    assert checkpoint_steps(broken) == [4, 8, 12]
    assert without_speeds(broken) == without_speeds(config)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32)),
        last_params(broken.run_dir),
        last_params(config.run_dir),
    )


def test_a_run_that_is_stopped_leaves_no_thread(config, tiny_batches, tmp_path, monkeypatch):
    """Although the exception keeps all frames. Garbage collection would end the thread later, in any other thread."""

    def stop() -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(loop, "check", stop)
    with pytest.raises(Interrupted) as kept:
        train(in_run_dir(config, tmp_path), tiny_batches())
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate()), kept


def without_speeds(config: Config) -> list[dict[str, Any]]:
    return [{name: line[name] for name in line if name != "tokens_per_second"} for line in read_metrics(config)]


def test_accumulation_steps_change_nothing_but_rounding(config, tiny_batches, tmp_path):
    """Not even dropout changes: the pairs are in the same rows, followed by empty rows."""
    for steps, rows in ((1, 7), (4, 8)):
        batches = tiny_batches(pairs=33, row_multiple=steps)
        assert batches.shape[2] == rows
        train(in_run_dir(config, tmp_path / str(steps), accumulation_steps=steps), batches)
    one, four = (last_params(tmp_path / name) for name in ("1", "4"))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), four, one)


def test_values_that_are_not_finite_stop_the_run_and_are_not_saved(config, finished, tiny_batches, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(config.run_dir, run_dir, ignore=shutil.ignore_patterns("12"))
    message = r"Training diverged at step {} \({}\)\. The last good checkpoint is step 8\."
    for peak, validation, step, what in (
        (1e18, None, 10, "loss nan, gradient norm nan, update norm nan"),  # step 9 was the first with this rate
        (1e18, tiny_batches(pairs=9, shuffle=False), 9, "validation loss nan"),
        (1e38, None, 9, r"loss \d\.\d+, gradient norm \d\.\d+, update norm inf"),
    ):
        absurd = OptimizerConfig(schedule="inverse_sqrt", peak=peak, warmup_steps=1)
        bad = in_run_dir(dataclasses.replace(config, optimizer=absurd), run_dir, validate_every=1 if validation else 4)
        with (
            Checkpoints(run_dir, 3, "print") as checkpoints,
            pytest.raises(DivergenceError, match=message.format(step, what)),
        ):
            loop.train(bad, tiny_batches(), validation, checkpoints, dtype="float32")
        assert checkpoint_steps(bad) == [4, 8]
    (line,) = (run_dir / "nonfinite.jsonl").read_text().splitlines()
    event = json.loads(line)
    assert (event["step"], event["update_norm"], event["update_norm/encoder/0"]) == (9, "inf", "inf")
    assert {*event} == {
        "step",
        "loss",
        "pairs",
        *(f"{what}_norm{part}" for what in ("gradient", "update") for part in PARTS),
    }
    assert event["pairs"] == tiny_batches().pairs(8).tolist()


def test_a_skipped_step_leaves_out_its_batch(config, finished, tiny_batches, tmp_path, monkeypatch):
    """The run equals one that never sees the batch, apart from the number of the step."""
    run_dir, bad = tmp_path / "run", tiny_batches()[9]
    shutil.copytree(config.run_dir, run_dir, ignore=shutil.ignore_patterns("12"))

    def marked_loss(model: Transformer, params: Any, batch: Batch, **arguments: Any) -> Any:
        loss, others = batch_loss(model, params, batch, **arguments)
        return loss / jnp.where((batch.source == bad.source).all(), 0.0, 1.0), others

    with monkeypatch.context() as patch:
        patch.setattr("transformer.training.step.batch_loss", marked_loss)
        train(in_run_dir(config, run_dir, max_skipped_steps=1), tiny_batches())
    model = Transformer(config.model)
    optimizer = make_optimizer(config.optimizer, config.model.d_model, STEPS)
    step = quick_jit(partial(train_step, model=model, optimizer=optimizer, label_smoothing=0.1, seed=config.seed))
    with Checkpoints(run_dir, 3, "print") as checkpoints:
        state = checkpoints.restore(8, create_state(model, optimizer, config.seed))
    for n in (8, 10, 11):
        state, _ = step(state._replace(step=jnp.int32(n)), tiny_batches()[n])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), last_params(run_dir), state.params)


@pytest.mark.slow
def test_learns_to_reverse(tmp_path):
    """A small model learns to write words backwards, from text to text."""
    generator = random.Random(0)
    words = list({"".join(generator.choices("abcdefgh", k=generator.randint(2, 5))) for _ in range(5000)})
    words.sort()
    generator.shuffle(words)
    words, unseen = words[:-200], words[-200:]
    config = Config(
        run_dir=str(tmp_path),
        model=ModelConfig(
            vocabulary_size=259,  # the bytes and the special ids, so that every token is one letter
            d_model=64,
            num_heads=4,
            d_ff=128,
            num_encoder_layers=1,
            num_decoder_layers=1,
            dropout=0.0,
            dtype="float32",
        ),
        optimizer=OptimizerConfig(schedule="inverse_sqrt", peak=4e-3, warmup_steps=60, final_fraction=0.5),
        training=TrainingConfig(steps=200, validate_every=200, log_every=100, batch_tokens=1024, pack_length=64),
        search=SearchConfig(beam_size=1),
    )
    pairs = Pairs(words, [word[::-1] for word in words])
    tokenizer = BpeTokenizer.train(words, config.model.vocabulary_size, config.tokenizer)
    report = Report(files=("words",), read=len(words))
    batches = Batches(
        tokenize(pairs, tokenizer, config.data, report, filter=True),
        config.tokenizer,
        tokens=config.training.batch_tokens,
        pack_length=config.training.pack_length,
        row_multiple=1,
        seed=0,
    )
    tokenizer.save(open_run(tmp_path, config) / "tokenizer.json")
    with Checkpoints(tmp_path, 1, tokenizer.fingerprint) as checkpoints:
        loop.train(config, batches, None, checkpoints, dtype="float32")
    found = load(tmp_path).translate(unseen)
    right = sum(text == word[::-1] for text, word in zip(found, unseen, strict=True))
    assert right >= 0.95 * len(unseen)

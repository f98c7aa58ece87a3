"""The intervals of logging, validation and saving, patience, and resuming.

A resumed run must log and save exactly what an uninterrupted one does. The model here is two numbers and a step is one
line of arithmetic, because the loop does not depend on them.
"""

import gzip
import itertools
import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.checkpoint import Checkpoints
from transformer.checkpoint_arrays import load_params
from transformer.checkpoint_records import records
from transformer.config import Config, DataConfig, ModelConfig, TrainingConfig
from transformer.counters import Counters
from transformer.errors import DivergenceError
from transformer.interruption import Interrupted
from transformer.run_dir import checkpoint_steps, is_finished, open_run, saved_steps
from transformer.training import loop, metrics, parallel
from transformer.training.optimizer import learning_rate
from transformer.training.step import TrainState

STEPS, BAD = 12, (5, 10)  # the steps of a run, and those whose gradient is not finite if such steps are skipped


def create_state(*_: Any) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), {"params": {"w": jnp.zeros(2)}}, jnp.zeros(()))


def train_step(state: TrainState, batch: Any, *, skip: bool, **_: Any) -> tuple[TrainState, dict[str, jax.Array]]:
    tokens = parallel.total(batch.target_mask.sum(dtype=jnp.float32))
    ids = parallel.total(batch.source.sum(dtype=jnp.float32))
    w = jnp.sin(state.params["params"]["w"] + ids)
    bad = skip & jnp.isin(state.step + 1, jnp.array(BAD))
    sums = {"loss_sum": tokens * w.sum(), "target_tokens": tokens, "source_tokens": tokens}
    norms = {"gradient_norm": jnp.where(bad, jnp.nan, w[0]), "update_norm": w[0], "update_norm/encoder": w}
    w = jnp.where(bad, state.params["params"]["w"], w)
    return TrainState(state.step + 1, {"params": {"w": w}}, ids), sums | norms


def eval_step(params: Any, batch: Any, **_: Any) -> dict[str, jax.Array]:
    tokens = parallel.total(batch.target_mask.sum(dtype=jnp.float32))
    return {"loss_sum": tokens * (2 + params["params"]["w"][1]), "target_tokens": tokens}


@pytest.fixture(autouse=True)
def two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches in a model of two numbers, and a clock that advances by 20 seconds each time it is read."""
    clock = itertools.count(step=20)
    monkeypatch.setattr(loop, "create_state", create_state)
    monkeypatch.setattr("transformer.training.step.train_step", train_step)
    monkeypatch.setattr(loop, "eval_step", eval_step)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))


def config_of(run_dir: Path, **training: Any) -> Config:
    training = {"steps": STEPS, "log_every": 100, "validate_every": 100} | training
    return Config(
        run_dir=str(run_dir),
        data=DataConfig(max_length=32),
        model=ModelConfig(vocabulary_size=270, max_positions=32),
        training=TrainingConfig(**training),
    )


@pytest.fixture
def train(tiny_batches) -> Any:
    def run(config: Config, interrupted_at: int | None = None, profile: int | None = None) -> None:
        run_dir = open_run(config.run_dir, config)
        with Checkpoints(run_dir, config.training.keep_last, "print") as checkpoints:
            batches, validation = tiny_batches(interrupted_at=interrupted_at), tiny_batches(pairs=9, shuffle=False)
            # `initial`: the parameters of the config's model are not drawn, because `create_state` does not need them.
            loop.train(config, batches, validation, checkpoints, dtype="float32", initial={}, profile=profile)

    return run


def lines(run_dir: Path, key: str = "step") -> list[dict[str, Any]]:
    """The lines of both logs that have this key, without the speed, which varies."""
    files = [run_dir / name for name in ("metrics.jsonl", "nonfinite.jsonl")]
    every = [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
    return [{name: line[name] for name in line if name != "tokens_per_second"} for line in every if key in line]


def steps_of(run_dir: Path, key: str) -> list[int]:
    return [line["step"] for line in lines(run_dir, key)]


def test_logging_validation_and_saving_have_intervals_of_their_own(train, tmp_path):
    train(config_of(tmp_path, log_every=3, validate_every=4, save_every=5))
    assert steps_of(tmp_path, "loss") == [3, 4, 6, 8, 9, 12]
    assert steps_of(tmp_path, "validation_loss") == [4, 8, 12]
    assert saved_steps(tmp_path) == [5, 10, 12]
    assert [np.isfinite(record.validation_loss) for record in records(tmp_path)] == [False, False, True]
    assert checkpoint_steps(tmp_path, "best") == [12]


def test_the_last_step_is_logged_validated_and_saved(train, tmp_path):
    train(config_of(tmp_path, steps=7, save_every=100))
    assert steps_of(tmp_path, "loss") == steps_of(tmp_path, "validation_loss") == saved_steps(tmp_path) == [7]


def test_saves_at_each_validation_by_default(train, tmp_path):
    train(config_of(tmp_path, validate_every=5))
    assert saved_steps(tmp_path) == steps_of(tmp_path, "validation_loss") == [5, 10, 12]


def test_a_checkpoint_saved_by_time_lasts_until_the_next(train, tmp_path):
    clocked = config_of(tmp_path, validate_every=4, save_minutes=1.0, keep_last=2)
    with pytest.raises(InterruptedError):
        train(clocked, interrupted_at=11)
    # The clock is read once per step and once after each save, so a minute has passed at the third step after a save.
    assert [(record.step, record.resume_only) for record in records(tmp_path)] == [(4, False), (8, False), (11, True)]
    assert checkpoint_steps(tmp_path, average=2) == [4, 8]
    train(clocked)
    assert [(record.step, record.resume_only) for record in records(tmp_path)] == [(4, False), (8, False), (12, False)]
    assert checkpoint_steps(tmp_path, "best") == [4]


CADENCES = [
    {"log_every": 3, "validate_every": 4},
    {"log_every": 5, "validate_every": 4, "save_every": 3},
    {"log_every": 4, "validate_every": 6, "save_minutes": 1.0, "max_skipped_steps": 2},
    {"log_every": 7, "validate_every": 3, "save_every": 5, "save_minutes": 1.0, "patience": 2},
]


@pytest.mark.parametrize("cadences", CADENCES)
def test_a_run_resumed_from_any_checkpoint_equals_an_uninterrupted_one(train, tmp_path, cadences):
    uninterrupted = tmp_path / "uninterrupted"
    train(config_of(uninterrupted, **cadences))
    resumed_from = set()
    for step in (3, 5, 8, 11):
        run_dir = tmp_path / str(step)
        config = config_of(run_dir, **cadences)
        try:
            train(config, interrupted_at=step)
        except InterruptedError:
            resumed_from |= {(record.step, record.resume_only) for record in records(run_dir)[-1:]}
        train(config)
        assert lines(run_dir) == lines(uninterrupted)
        assert saved_steps(run_dir) == saved_steps(uninterrupted)
        assert last_params(run_dir).tobytes() == last_params(uninterrupted).tobytes()
    assert len(resumed_from) >= 2
    assert any(resume_only for _, resume_only in resumed_from) == ("save_minutes" in cadences)


def last_params(run_dir: Path) -> np.ndarray:
    return load_params(run_dir, saved_steps(run_dir)[-1:])["params"]["w"]


@pytest.mark.parametrize("cadences", CADENCES)
def test_a_signal_during_a_validation_repeats_it(train, tmp_path, monkeypatch, cadences):
    """The checkpoint is of the step before the validation, and the resumed run begins with that validation."""
    uninterrupted = tmp_path / "uninterrupted"
    train(config_of(uninterrupted, **cadences))
    for number in range(1, 1 + len(steps_of(uninterrupted, "validation_loss"))):
        run_dir = tmp_path / str(number)
        config = config_of(run_dir, **cadences)
        left = iter(range(number - 1))

        def validate(*arguments: Any, validate: Any = loop.validate, left: Any = left) -> float:
            if next(left, None) is None:
                raise Interrupted(signal.SIGTERM)
            return validate(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "validate", validate)
            with pytest.raises(Interrupted):
                train(config)
        last = records(run_dir)[-1]
        assert (last.step, last.resume_only) == (steps_of(uninterrupted, "validation_loss")[number - 1], True)
        assert not is_finished(run_dir)
        train(config)
        assert lines(run_dir) == lines(uninterrupted)
        assert saved_steps(run_dir) == saved_steps(uninterrupted)
        assert last_params(run_dir).tobytes() == last_params(uninterrupted).tobytes()


@pytest.mark.parametrize("cadences", CADENCES)
def test_a_signal_between_any_two_steps_changes_nothing(train, tmp_path, monkeypatch, cadences):
    uninterrupted, run_dir = tmp_path / "uninterrupted", tmp_path / "run"
    train(config_of(uninterrupted, **cadences))
    config = config_of(run_dir, **cadences)
    for step in range(1, 1 + lines(uninterrupted)[-1]["step"]):
        looks = itertools.count()

        def check(looks: Any = looks, first: bool = step == 1) -> None:
            if next(looks) == (0 if first else 1):
                raise Interrupted(signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "check", check)
            with pytest.raises(Interrupted):
                train(config)
        assert [record.step for record in records(run_dir)[-1:]] == ([step - 1] if step > 1 else [])
    train(config)
    assert lines(run_dir) == lines(uninterrupted)
    assert saved_steps(run_dir) == saved_steps(uninterrupted)
    assert last_params(run_dir).tobytes() == last_params(uninterrupted).tobytes()


def test_one_skipped_step_too_many_ends_the_run(train, tmp_path):
    """The checkpoint has the number of those so far. A run that is resumed with a larger maximum goes on."""
    config = config_of(tmp_path, log_every=1, validate_every=3, max_skipped_steps=1)
    with pytest.raises(InterruptedError):
        train(config, interrupted_at=7)
    with pytest.raises(
        DivergenceError, match=r"step 10 \(.*, gradient norm nan, .* step 9\..* resume with a larger --tr"
    ):
        train(config)
    assert [record.counters.skipped_steps for record in records(tmp_path)] == [0, 1, 1]
    train(config_of(tmp_path, log_every=1, validate_every=3, max_skipped_steps=2))
    assert steps_of(tmp_path, "pairs") == [*BAD]
    logged = lines(tmp_path, "learning_rate")
    assert [line["skipped_steps"] for line in logged] == [0] * 4 + [1] * 5 + [2] * 3
    updates = [step - skipped for step, skipped in ((n + 1, line["skipped_steps"]) for n, line in enumerate(logged))]
    rate = learning_rate(config.optimizer, config.model.d_model, STEPS)
    assert [line["learning_rate"] for line in logged] == pytest.approx(
        np.asarray(rate(np.array(updates) - 1)), rel=1e-6
    )
    assert [line["step"] for line in logged if line["loss"] is None] == [*BAD]


def test_patience_counts_validations_and_stays_exhausted(train, tmp_path, monkeypatch):
    losses = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.4}
    monkeypatch.setattr(loop, "validate", lambda _, __, state, ___: losses[int(state.step)])
    config = config_of(tmp_path, steps=40, validate_every=2, save_every=5, patience=2)
    with pytest.raises(InterruptedError):
        train(config, interrupted_at=7)  # the run resumes from step 5, so the step of the best loss has no checkpoint
    for _ in range(2):
        train(config)
        assert steps_of(tmp_path, "validation_loss") == [2, 4, 6, 8]
        assert steps_of(tmp_path, "loss")[-1] == 8
        assert saved_steps(tmp_path) == [5, 8]
        assert is_finished(tmp_path)


def test_the_speed_excludes_the_time_of_validations_and_saves(train, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)

    def split(*arguments: Any, split: Any = parallel.split) -> Any:
        clock.now += 2.0  # seconds per step
        return split(*arguments)

    def validate(*_: Any) -> float:
        clock.now += 1000.0
        return 1.0

    def save(*arguments: Any, save: Any = Checkpoints.save, **keywords: Any) -> None:
        clock.now += 1000.0
        save(*arguments, **keywords)

    monkeypatch.setattr(parallel, "split", split)
    monkeypatch.setattr(loop, "validate", validate)
    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr("transformer.training.step.train_step", lambda state, batch, **_: constant(state))
    train(config_of(tmp_path, validate_every=4, save_every=3))
    every = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["tokens_per_second"] for line in every if "loss" in line] == [5.0, 5.0, 5.0]


def constant(state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
    """A step of ten tokens."""
    one = jnp.ones(())
    sums = {"loss_sum": one, "target_tokens": 6 * one, "source_tokens": 4 * one}
    return state._replace(step=state.step + 1), sums | {"gradient_norm": one, "update_norm": one}


def test_counters_keep_the_latest_of_the_lowest_losses():
    counters = Counters()
    since_best = []
    for loss in (3.0, 2.0, 2.5, 2.0, 2.1, 2.2):
        counters = counters.after_validation(loss)
        since_best.append(counters.validations_since_best)
    assert (since_best, counters.best_loss) == ([0, 0, 1, 0, 1, 2], 2.0)


def test_a_trace_has_the_steps_and_changes_none(train, tmp_path):
    """The run resumes from step 4, so steps 5 and 6 are not traced."""
    for name, profile in (("plain", None), ("traced", 3)):
        config = config_of(tmp_path / name, log_every=1, validate_every=4)
        with pytest.raises(InterruptedError):
            train(config, interrupted_at=6)
        train(config, profile=profile)
    assert lines(tmp_path / "traced") == lines(tmp_path / "plain")
    assert last_params(tmp_path / "traced").tobytes() == last_params(tmp_path / "plain").tobytes()
    (file,) = (tmp_path / "traced" / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert [event["args"]["step_num"] for event in events if event.get("name") == "step"] == ["7", "8", "9"]

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils

from transformer.checkpoint import Checkpoints
from transformer.checkpoint_arrays import load_params
from transformer.checkpoint_records import records
from transformer.counters import Counters
from transformer.errors import InputError

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda count: 0.1))


class State(NamedTuple):
    step: Any
    params: Any
    optimizer_state: Any


def make_state(step: int) -> State:
    """A state in which every array depends on the step."""
    keys = jax.random.split(jax.random.key(step), 3)
    trained = {"layer": {"kernel": jax.random.normal(keys[0], (64, 32)), "bias": jax.random.normal(keys[1], (32,))}}
    params = {"params": trained, "batch_stats": {"mean": jax.random.normal(keys[2], (32,))}}
    _, optimizer_state = OPTIMIZER.update(trained, OPTIMIZER.init(trained))
    return State(jnp.asarray(step, jnp.int32), params, optimizer_state)


def save(run_dir: Path, losses: dict[int, float], keep_last: int = 3) -> None:
    with Checkpoints(run_dir, keep_last, "print") as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, make_state(step), {"validation_loss": loss})


def assert_equal(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == np.asarray(b).tobytes()


def test_restores_every_bit(tmp_path: Path):
    save(tmp_path, {7: 1.0})
    with Checkpoints(tmp_path, 3, "print") as checkpoints:
        assert checkpoints.latest() == 7
        abstract = jax.eval_shape(lambda: make_state(0))
        assert_equal(checkpoints.restore(7, abstract), make_state(7))
        assert_equal(checkpoints.restore(7, make_state(0)), make_state(7))


def test_restores_without_batch_statistics(tmp_path: Path):
    state = make_state(1)
    state = state._replace(params={"params": state.params["params"]})
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        checkpoints.save(1, state, {})
        assert_equal(checkpoints.restore(1, state), state)
    assert_equal(load_params(tmp_path, [1]), state.params)


def test_saving_does_not_count_the_checks_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`processes.check` counts them, so that all processes stop at the same one."""
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", pytest.fail)
    save(tmp_path, {1: 1.0, 2: 2.0})


def test_restores_onto_devices(tmp_path: Path):
    save(tmp_path, {7: 1.0})
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), make_state(0))
    with Checkpoints(tmp_path, 3, "print") as checkpoints:
        restored = checkpoints.restore(7, like._replace(step=make_state(0).step))
    leaves = jax.tree.leaves(restored._replace(step=restored.params))
    assert all(isinstance(leaf, jax.Array) and leaf.sharding == device for leaf in leaves)
    assert_equal(jax.tree.map(np.asarray, restored), make_state(7))
    assert isinstance(restored.step, np.ndarray)


def test_saves_the_values_at_the_time_of_the_call(tmp_path: Path):
    """Donated buffers are reused by the next step while the checkpoint is written in the background."""

    def large(step: int) -> State:
        return make_state(step)._replace(params={"params": {"kernel": jnp.full((8, 1024, 1024), step, jnp.float32)}})

    donating = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state, expected = large(1), jax.tree.map(np.array, large(1))
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(3):
            state = donating(state)
        jax.block_until_ready(state)
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        assert_equal(checkpoints.restore(1, state), expected)


def regular_steps(checkpoints: Checkpoints, run: Path) -> list[int]:
    checkpoints.wait()
    return [record.step for record in records(run) if not record.resume_only]


def test_keeps_the_last_and_the_best(tmp_path: Path):
    save(tmp_path, {1: 4.0, 2: 2.0, 3: 3.0, 4: 3.5, 5: float("nan")}, keep_last=2)
    with Checkpoints(tmp_path, 2, "print") as checkpoints:
        assert regular_steps(checkpoints, tmp_path) == [2, 4, 5]
        assert checkpoints.latest() == 5
        checkpoints.save(6, make_state(6), {"validation_loss": 1.5})  # deletes the old best one, even after a restart
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["5", "6"]


def test_without_validation_the_last_are_kept(tmp_path: Path):
    with Checkpoints(tmp_path, 2, "print") as checkpoints:
        assert (regular_steps(checkpoints, tmp_path), checkpoints.latest()) == ([], None)
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {})
        assert regular_steps(checkpoints, tmp_path) == [2, 3]
    assert [record.step for record in records(tmp_path)] == [2, 3]


def test_a_resume_only_checkpoint_is_not_counted_and_the_next_save_deletes_it(tmp_path: Path):
    with Checkpoints(tmp_path, 2, "print") as checkpoints:
        checkpoints.save(1, make_state(1), {"validation_loss": 1.0})
        checkpoints.save(2, make_state(2), {"validation_loss": 2.0})
        checkpoints.save(3, make_state(3), {"validation_loss": 3.0})
        checkpoints.save(4, make_state(4), {}, resume_only=True)
        checkpoints.save(5, make_state(5), {}, resume_only=True)
        assert (regular_steps(checkpoints, tmp_path), checkpoints.latest()) == ([1, 2, 3], 5)
    assert [record.step for record in records(tmp_path)] == [1, 2, 3, 5]
    with Checkpoints(tmp_path, 2, "print") as checkpoints:  # a restart still knows it
        assert (regular_steps(checkpoints, tmp_path), checkpoints.latest()) == ([1, 2, 3], 5)
        assert_equal(checkpoints.restore(5, make_state(0)), make_state(5))
        checkpoints.save(6, make_state(6), {"validation_loss": 4.0})
        assert regular_steps(checkpoints, tmp_path) == [1, 3, 6]
    assert [(record.step, record.resume_only) for record in records(tmp_path)] == [(1, False), (3, False), (6, False)]


def test_keeps_the_counters_of_the_training_loop(tmp_path: Path):
    counters = Counters(loss_sum=0.1 + 0.2, target_tokens=3.0, best_loss=1 / 3, validations_since_best=2)
    with Checkpoints(tmp_path, 2, "print") as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.save(2, make_state(2), {}, counters)
    with Checkpoints(tmp_path, 2, "print") as checkpoints:
        assert checkpoints.record(1).counters == Counters()
        assert checkpoints.record(2).counters == counters


def test_a_step_is_never_skipped_silently(tmp_path: Path):
    save(tmp_path, {5: 1.0})
    with Checkpoints(tmp_path, 3, "print") as checkpoints:
        for step in (4, 5):
            with pytest.raises(RuntimeError, match=f"Cannot save step {step}: a checkpoint of step 5 exists"):
                checkpoints.save(step, make_state(step), {})


def test_deletes_what_a_crash_left(tmp_path: Path):
    save(tmp_path, {5: 1.0})
    unfinished = tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert_equal(load_params(tmp_path, [5]), make_state(5).params)
    assert unfinished.exists()  # it may belong to a running job, so only that job deletes it
    with Checkpoints(tmp_path, 3, "print") as checkpoints:
        assert regular_steps(checkpoints, tmp_path) == [5]
        checkpoints.save(6, make_state(6), {})
    assert not unfinished.exists()


def test_refuses_another_shape_or_type(tmp_path: Path):
    save(tmp_path, {5: 1.0})
    wider = make_state(5)._replace(step=jnp.zeros((2,), jnp.int32))
    other = make_state(5)
    other = other._replace(params={**other.params, "batch_stats": {"mean": jnp.zeros(32, jnp.bfloat16)}})
    with Checkpoints(tmp_path, 3, "print") as checkpoints:
        with pytest.raises(InputError, match=r"step'\] is int32\[\] in the checkpoint, but int32\[2\] was expected"):
            checkpoints.restore(5, wider)
        with pytest.raises(InputError, match=r"mean'\] is float32\[32\] in the checkpoint, but bfloat16\[32\] was"):
            checkpoints.restore(5, other)


@pytest.mark.parametrize("steps", [[5], [3, 4, 5], [2, 3, 4]])
def test_averages_checkpoints(tmp_path: Path, steps: list[int]):
    save(tmp_path, dict.fromkeys(range(1, 6), 1.0), keep_last=5)
    states = [make_state(step) for step in steps]
    expected = jax.tree.map(
        lambda *leaves: np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(np.float32),
        *(state.params for state in states),
    )
    actual = load_params(tmp_path, steps)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7), actual, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {np.dtype(np.float32)}


def test_refuses_another_tokenizer(tmp_path: Path):
    save(tmp_path, {1: 1.0})
    assert_equal(load_params(tmp_path, [1], "print"), make_state(1).params)
    with pytest.raises(InputError, match="trained with another tokenizer"):
        load_params(tmp_path, [1], "other")
    with Checkpoints(tmp_path, 1, "other") as checkpoints, pytest.raises(InputError, match="another tokenizer"):
        checkpoints.restore(1, make_state(1))


def test_a_checkpoint_is_not_started_without_enough_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, {1: 1.0})
    usage = type(shutil.disk_usage(tmp_path))(10**6, 10**6 - 9000, 9000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"Cannot save .* step 2: it needs 0\.0 MB, but only 0\.0 MB are free"):
        save(tmp_path, {2: 1.0})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_missing_or_damaged_checkpoint_is_an_error(tmp_path: Path):
    save(tmp_path, {1: 2.0, 2: 1.0})
    with pytest.raises(InputError, match=r"Cannot find the checkpoint of step 3 in .*checkpoints"):
        load_params(tmp_path, [1, 3])
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "params")
    with pytest.raises(InputError, match=r"step 2 in .* is damaged .* other steps: 1\."):
        load_params(tmp_path, [2])


def test_a_regular_checkpoint_replaces_a_resume_only_one_of_the_same_step(tmp_path: Path):
    with Checkpoints(tmp_path, 2, "print") as checkpoints:
        checkpoints.save(1, make_state(1), {}, resume_only=True)
        checkpoints.save(1, make_state(1), {"validation_loss": 1.0})
        with pytest.raises(RuntimeError, match="Cannot save step 1"):
            checkpoints.save(1, make_state(1), {})
    assert [(record.step, record.resume_only, record.validation_loss) for record in records(tmp_path)] == [
        (1, False, 1.0)
    ]

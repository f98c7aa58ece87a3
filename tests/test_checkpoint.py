import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer.checkpoint import Checkpoints, hold_run, load_params, open_run, read_config
from transformer.config import Config, DataConfig, ModelConfig, TokenizerConfig
from transformer.errors import InputError

HOLD = """
import sys
from pathlib import Path
from transformer.checkpoint import hold_run
with hold_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda count: 0.1))


class State(NamedTuple):
    step: Any
    params: Any
    batch_stats: Any
    optimizer_state: Any


def make_state(step: int) -> State:
    """A state whose every array depends on the step."""
    keys = jax.random.split(jax.random.key(step), 3)
    params = {"layer": {"kernel": jax.random.normal(keys[0], (64, 32)), "bias": jax.random.normal(keys[1], (32,))}}
    statistics = {"batch_stats": {"mean": jax.random.normal(keys[2], (32,))}}
    _, optimizer_state = OPTIMIZER.update(params, OPTIMIZER.init(params))
    return State(jnp.asarray(step, jnp.int32), params, statistics, optimizer_state)


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
    state = make_state(1)._replace(batch_stats={})
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        checkpoints.save(1, state, {})
        assert_equal(checkpoints.restore(1, state), state)
    assert_equal(load_params(tmp_path), {"params": state.params})


def test_saves_the_values_of_the_moment_of_the_call(tmp_path: Path):
    state, expected = make_state(1), jax.tree.map(np.array, make_state(1))
    donating = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(3):
            state = donating(state)
        jax.block_until_ready(state)
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        assert_equal(checkpoints.restore(1, state), expected)


def test_keeps_the_last_and_the_best(tmp_path: Path):
    save(tmp_path, {1: 4.0, 2: 2.0, 3: 3.0, 4: 3.5, 5: float("nan")}, keep_last=2)
    with Checkpoints(tmp_path, 2, "print") as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]
        assert (checkpoints.best(), checkpoints.latest()) == (2, 5)
        checkpoints.save(6, make_state(6), {"validation_loss": 1.5})  # the old best one may go, after a restart too
        assert checkpoints.best() == 6
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["5", "6"]


def test_without_validation_the_last_is_the_best(tmp_path: Path):
    with Checkpoints(tmp_path, 2, "print") as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([], None, None)
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {})
        assert (checkpoints.steps(), checkpoints.best()) == ([2, 3], 3)
    assert_equal(load_params(tmp_path, "best")["params"], make_state(3).params)


def test_a_step_is_never_skipped_silently(tmp_path: Path):
    save(tmp_path, {5: 1.0})
    with Checkpoints(tmp_path, 3, "print") as checkpoints:
        for step in (4, 5):
            with pytest.raises(RuntimeError, match=f"Step {step} cannot be saved: there is a checkpoint of step 5"):
                checkpoints.save(step, make_state(step), {})


def test_clears_away_what_a_crash_left(tmp_path: Path):
    save(tmp_path, {5: 1.0})
    unfinished = tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert_equal(load_params(tmp_path)["params"], make_state(5).params)
    assert unfinished.exists()  # it may be a running job's: only the job itself clears away
    with Checkpoints(tmp_path, 3, "print") as checkpoints:
        assert checkpoints.steps() == [5]
        checkpoints.save(6, make_state(6), {})
    assert not unfinished.exists()


def test_refuses_another_shape_or_type(tmp_path: Path):
    save(tmp_path, {5: 1.0})
    wider = make_state(5)._replace(step=jnp.zeros((2,), jnp.int32))
    other = make_state(5)._replace(batch_stats={"batch_stats": {"mean": jnp.zeros(32, jnp.bfloat16)}})
    with Checkpoints(tmp_path, 3, "print") as checkpoints:
        with pytest.raises(InputError, match=r"step'\] is int32\[\] there and int32\[2\] here"):
            checkpoints.restore(5, wider)
        with pytest.raises(InputError, match=r"mean'\] is float32\[32\] there and bfloat16\[32\] here"):
            checkpoints.restore(5, other)


@pytest.mark.parametrize(("checkpoint", "step"), [("last", 4), ("best", 2), (3, 3)])
def test_loads_the_named_checkpoint(tmp_path: Path, checkpoint: Any, step: int):
    save(tmp_path, {1: 4.0, 2: 2.0, 3: 3.0, 4: 3.5})
    state = make_state(step)
    assert_equal(load_params(tmp_path, checkpoint), {"params": state.params, **state.batch_stats})


@pytest.mark.parametrize(("checkpoint", "steps"), [("last", [3, 4, 5]), (4, [2, 3, 4])])
def test_averages_the_last_checkpoints(tmp_path: Path, checkpoint: Any, steps: list[int]):
    save(tmp_path, dict.fromkeys(range(1, 6), 1.0), keep_last=5)
    states = [make_state(step) for step in steps]
    expected = jax.tree.map(
        lambda *leaves: np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(np.float32),
        *({"params": state.params, **state.batch_stats} for state in states),
    )
    actual = load_params(tmp_path, checkpoint, average=3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7), actual, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {np.dtype(np.float32)}


def test_names_the_checkpoints_that_are_there(tmp_path: Path):
    with pytest.raises(InputError, match=r"There is no checkpoint in .*checkpoints"):
        load_params(tmp_path)
    save(tmp_path, {10: 3.0, 20: 2.0})
    with pytest.raises(InputError, match=r"no checkpoint of step 15: .* has those of the steps 10, 20\."):
        load_params(tmp_path, 15)
    with pytest.raises(InputError, match=r"Of step 20 and before, 3 .* cannot be averaged: .* steps 10, 20\."):
        load_params(tmp_path, "last", average=3)
    with pytest.raises(InputError, match=r"Of step 10 and before, 2 .* cannot be averaged"):
        load_params(tmp_path, 10, average=2)


def test_refuses_another_tokenizer(tmp_path: Path):
    save(tmp_path, {1: 1.0})
    assert_equal(load_params(tmp_path, fingerprint="print")["params"], make_state(1).params)
    with pytest.raises(InputError, match="trained with another tokenizer"):
        load_params(tmp_path, fingerprint="other")
    with Checkpoints(tmp_path, 1, "other") as checkpoints, pytest.raises(InputError, match="another tokenizer"):
        checkpoints.restore(1, make_state(1))


OTHER_TOPOLOGY = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tests_checkpoint import make_state
from transformer.checkpoint import Checkpoints

assert jax.device_count() == 8
with Checkpoints(sys.argv[1], 3, "print") as checkpoints:
    state = checkpoints.restore(1, jax.eval_shape(lambda: make_state(0)))
    jax.tree.map(np.testing.assert_array_equal, state, make_state(1))
    everywhere = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec())
    checkpoints.save(2, jax.device_put(make_state(2), everywhere), {"validation_loss": 1.0})
"""


def test_restores_on_another_number_of_devices_without_a_word(tmp_path: Path):
    run_dir = tmp_path / "run"
    save(run_dir, {1: 2.0})
    (tmp_path / "tests_checkpoint.py").write_text(Path(__file__).read_text())
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])]),
        "PYTHONWARNINGS": "error",
    }
    result = subprocess.run(
        [sys.executable, "-c", OTHER_TOPOLOGY, str(run_dir)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    with Checkpoints(run_dir, 3, "print") as checkpoints:
        assert_equal(checkpoints.restore(2, make_state(0)), make_state(2))


def small_config(**fields: Any) -> Config:
    return Config(model=ModelConfig(d_model=64, num_heads=2), **fields)


def test_open_run_makes_the_directory_once(tmp_path: Path):
    config = small_config(run_dir="here")
    run_dir = open_run(tmp_path / "a" / "run", config)
    assert run_dir == tmp_path / "a" / "run"
    assert [path.name for path in run_dir.iterdir()] == ["config.json"]
    assert read_config(run_dir) == config
    open_run(run_dir, dataclasses.replace(config, run_dir="moved"))
    assert read_config(run_dir) == config


def test_open_run_compares_files_by_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    relative = small_config(data=DataConfig(train=("a.en", "a.de")), tokenizer=TokenizerConfig(file="t.json"))
    absolute = small_config(
        data=DataConfig(train=(str(tmp_path / "a.en"), str(tmp_path / "a.de"))),
        tokenizer=TokenizerConfig(file=str(tmp_path / "t.json")),
    )
    open_run("run", relative)
    open_run("run", absolute)
    with pytest.raises(InputError, match=r"data\.train is .*a\.de.* there and .*b\.de.* here"):
        open_run("run", dataclasses.replace(relative, data=DataConfig(train=("a.en", "b.de"))))


def test_a_file_with_all_splits_is_compared_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    open_run("run", small_config(data=DataConfig(corpus="all.jsonl")))
    open_run("run", small_config(data=DataConfig(corpus=str(tmp_path / "all.jsonl"))))
    with pytest.raises(InputError, match=r"data\.corpus is .*all\.jsonl.* there and .*other\.jsonl.* here"):
        open_run("run", small_config(data=DataConfig(corpus="other.jsonl")))


def test_a_dataset_of_the_hub_or_the_package_is_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = small_config(data=DataConfig(corpus="some/dataset", train=("train[:9]",)))
    packaged = small_config(data=DataConfig(corpus="package:quickstart.jsonl.xz"))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        open_run(tmp_path / "run", config)
        open_run(tmp_path / "packaged", packaged)
    with pytest.raises(InputError, match=r"data\.train is \('train\[:9\]',\) there"):
        open_run(tmp_path / "run", dataclasses.replace(config, data=DataConfig(corpus="some/dataset", train=("test",))))


def test_a_checkpoint_without_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, {1: 1.0})
    usage = type(shutil.disk_usage(tmp_path))(10**6, 10**6 - 9000, 9000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"no room for the checkpoint of step 2: it has 0\.0 MB, and 0\.0 MB are free"):
        save(tmp_path, {2: 1.0})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_run_is_held_by_one_process(tmp_path: Path):
    holder = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=r"Another process is training in the run directory .* --run-dir"),
            hold_run(tmp_path),
        ):
            pass
        process.kill()  # nothing is left to be cleared away by hand
    with hold_run(tmp_path):
        pass


def test_open_run_refuses_another_config(tmp_path: Path):
    open_run(tmp_path, small_config())
    other = dataclasses.replace(small_config(), model=ModelConfig(d_model=128, num_heads=2))
    with pytest.raises(InputError, match=r"of another config: model\.d_model is 64 there and 128 here"):
        open_run(tmp_path, other)
    with pytest.raises(InputError, match="seed is 0 there and 1 here"):
        open_run(tmp_path, small_config(seed=1))


def test_open_run_refuses_directories_that_are_not_its_own(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="neither empty nor that of a run"):
        open_run(tmp_path, small_config())
    with pytest.raises(InputError, match="cannot be made: Not a directory"):
        open_run(tmp_path / "notes.txt" / "run", small_config())
    with pytest.raises(InputError, match="is a file"):
        open_run(tmp_path / "notes.txt", small_config())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_open_run_refuses_a_directory_that_is_not_writable(tmp_path: Path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(InputError, match="cannot be written to"):
        open_run(tmp_path, small_config())


def test_read_config_says_what_is_wrong(tmp_path: Path):
    with pytest.raises(InputError, match=r"is not the directory of a run: it has no config\.json"):
        read_config(tmp_path)
    for text, reason in [("{", "not valid JSON"), ('{"sed": 1}', "no field sed"), ('{"seed": -1}', "seed must not be")]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=rf"config\.json cannot be used\. .*{reason}"):
            read_config(tmp_path)

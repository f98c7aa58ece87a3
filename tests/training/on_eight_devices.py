"""Tests on eight simulated CPU devices, in a process that `test_parallel.py` starts.

A float32 step on eight devices differs from a step on one device only in the order of sums. After twenty Adam steps, a
measurement found differences of up to 1e-6 in parameters of order one, and of 1e-5 in Adam's means relative to the
largest.
"""

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transformer import devices, parameters
from transformer.axes import ALONE
from transformer.checkpoint import Checkpoints
from transformer.checkpoint_arrays import load_params
from transformer.config import Config, DataConfig, ModelConfig, OptimizerConfig, ParallelConfig, TrainingConfig
from transformer.model import Transformer
from transformer.run_dir import CHECKPOINTS, saved_steps
from transformer.shapes import Batch
from transformer.training import loop
from transformer.training.mesh import MeshStrategy
from transformer.training.norms import by_layer
from transformer.training.optimizer import make_optimizer
from transformer.training.parallel import PmapStrategy
from transformer.training.step import TrainState, batch_loss, create_state, eval_step, train_step

STEPS = 20
SKIPPED, MARK = 12, 2  # the batch and the token id whose loss is not finite


@pytest.fixture(scope="module")
def batches(make_batch: Callable[..., Batch]) -> list[Batch]:
    """Batches of 16 packed rows. The last three are empty, so three of the eight devices have one empty row.

    Rows of more than three tokens have two segments. One row of one batch is marked with `MARK`, which other rows do
    not have.
    """

    def segments(mask: Any) -> np.ndarray:
        return (mask * (1 + (np.arange(mask.shape[1]) >= 3))).astype(np.int32)

    made = [make_batch(n, rows=16, S=6, T=7, empty_rows=3) for n in range(STEPS)]
    made[SKIPPED].source[5, 0] = MARK
    return [
        batch._replace(source_segments=segments(batch.source_mask), target_segments=segments(batch.target_mask))
        for batch in made
    ]


@pytest.fixture(scope="module")
def every_kind(tiny_model: ModelConfig) -> ModelConfig:
    """A model with every kind of parameter, of which eight devices can share everything."""
    return dataclasses.replace(
        tiny_model,
        vocabulary_size=272,
        num_heads=8,
        num_encoder_layers=2,
        positions="learned",
        attention_bias=True,
        final_logits_bias=True,
        scan_unroll=1,
    )


@pytest.fixture(scope="module")
def on_one_device(every_kind: ModelConfig, batches: list[Batch]) -> tuple:
    return run(OneDevice(), every_kind, batches)


class OneDevice:
    """The reference: `jax.jit` of the step, without a mapped axis."""

    axes = ALONE

    def create(self, init: Callable, params: Any) -> TrainState:
        return init(params)

    def map_train_step(self, step: Callable, _: TrainState) -> Callable:
        return jax.jit(step)

    def map_eval_step(self, step: Callable) -> Callable:
        return jax.jit(step)

    def split(self, batch: Batch, micro_batches: int | None = None) -> Batch:
        assert micro_batches in (None, 1)
        return batch


def mesh(config: ModelConfig, **sizes: Any) -> MeshStrategy:
    return MeshStrategy(ParallelConfig("mesh", **sizes), config, jax.devices())


def run(
    strategy: Any, config: ModelConfig, batches: list[Batch], micro_batches: int = 1
) -> tuple[TrainState, list[dict[str, float]]]:
    """The state after all batches, and every step's metrics."""
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=10, scale=0.3, clip_norm=1.0), config.d_model, STEPS)
    model = Transformer(config)
    # The gradient of a key's bias is 0 but for rounding, which Adam would scale up.
    freeze = ("*/key/bias",) if config.attention_bias else ()
    own = model.clone(axes=strategy.axes)
    step = partial(train_step, model=own, optimizer=optimizer, label_smoothing=0.1, seed=3, freeze=freeze, skip=True)
    drawn = parameters.draw(model, 3)
    state = strategy.create(lambda params: create_state(model, optimizer, 3, params, freeze), drawn)
    mapped, log = strategy.map_train_step(step, state), []
    for batch in batches:
        state, metrics = mapped(state, strategy.split(batch, micro_batches))
        log.append(by_layer(jax.device_get(metrics)))
    return state, log


def assert_same_run(actual: tuple, expected: tuple) -> None:
    """Requires equal states, including their shapes (no axis of devices), and equal metrics of every step."""
    (state, log), (expected_state, expected_log) = actual, expected
    for step, ours, theirs in zip(range(STEPS), log, expected_log, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, nan_ok=True), step
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, expected_state)
    assert_close(state.params, expected_state.params)
    assert int(state.step) == int(expected_state.step) == STEPS


def assert_close(actual: Any, expected: Any) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), actual, expected)


def test_eight_devices_equal_one_device(tiny_model, batches, monkeypatch):
    """Dropout everywhere, packed rows, an incomplete batch, clipping and label smoothing, with `pmap` and on a mesh.

    Batch norm has the statistics of all devices. The next test trains without it. In one step the loss of one device is
    NaN, and all devices skip the update.
    """

    def marked_loss(model: Transformer, params: Any, batch: Batch, **arguments: Any) -> Any:
        loss, others = batch_loss(model, params, batch, **arguments)
        return loss * jnp.where((batch.source == MARK).any(), jnp.nan, 1.0), others

    monkeypatch.setattr("transformer.training.step.batch_loss", marked_loss)
    config = dataclasses.replace(tiny_model, norm="batch", batch_norm_momentum=0.8)
    state, log = one = run(OneDevice(), config, batches)
    assert [step for step, metrics in enumerate(log) if not np.isfinite(metrics["update_norm"])] == [SKIPPED]
    model = Transformer(config)
    expected = jax.jit(partial(eval_step, model=model))(state.params, batches[0])
    for strategy in (PmapStrategy(), mesh(config, fsdp=2, tensor=2)):
        assert_same_run(run(strategy, config, batches), one)
        own = model.clone(axes=strategy.axes)
        sums = strategy.map_eval_step(partial(eval_step, model=own))(state.params, strategy.split(batches[0]))
        for name, value in expected.items():
            assert float(sums[name]) == pytest.approx(float(value), rel=1e-5), name


@pytest.mark.parametrize(("sizes", "micro_batches"), [({"fsdp": 8}, 1), ({"tensor": 4}, 8)], ids=str)
def test_meshes_of_one_kind_equal_one_device(on_one_device, every_kind, batches, sizes, micro_batches):
    """The same without batch norm, which depends on micro-batches, and with every kind of parameter."""
    assert_same_run(run(mesh(every_kind, **sizes), every_kind, batches, micro_batches), on_one_device)


def test_a_run_resumes_with_another_number_of_devices(tiny_model, tiny_batches, tmp_path, monkeypatch):
    config = Config(
        data=DataConfig(max_length=32),
        model=dataclasses.replace(tiny_model, attention_dropout=0.0, activation_dropout=0.0),
        optimizer=OptimizerConfig(warmup_steps=4, scale=0.1),
        training=TrainingConfig(steps=8, validate_every=4, log_every=4),
    )
    traced = []

    def step(*args: Any, **kwargs: Any) -> Any:
        traced.append(jax.local_device_count())
        return train_step(*args, **kwargs)

    monkeypatch.setattr("transformer.training.step.train_step", step)

    def train(run_dir: Path, steps: int, **parallel: Any) -> None:
        shorter = dataclasses.replace(config.training, steps=steps)
        run_dir.mkdir(exist_ok=True)
        with Checkpoints(run_dir, 2, "print") as checkpoints:
            changed = dataclasses.replace(
                config, run_dir=str(run_dir), training=shorter, parallel=ParallelConfig(**parallel)
            )
            # At most 7 rows are filled, so on eight devices the last one always has an empty row.
            batches = tiny_batches(pairs=33, row_multiple=devices.count())
            assert batches.shape[2] == (7 if devices.count() == 1 else 8)
            loop.train(changed, batches, None, checkpoints, dtype="float32")

    with monkeypatch.context() as patch:
        patch.setattr(jax, "local_device_count", lambda: 1)
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        train(tmp_path / "one", 8)
    assert set(traced) == {1}
    shutil.copytree(tmp_path / "one", tmp_path / "both")
    shutil.rmtree(tmp_path / "both" / CHECKPOINTS / "8")
    assert saved_steps(tmp_path / "both") == [4]
    train(tmp_path / "both", 6, fsdp=8)
    assert traced.count(8) == 1
    train(tmp_path / "both", 8)
    assert traced.count(8) == 2
    both, one = (load_params(tmp_path / name, saved_steps(tmp_path / name)[-1:]) for name in ("both", "one"))
    assert_close(both, one)


@pytest.mark.parametrize("saved", ["one device", "replicated", "sharded"])
def test_a_state_restores_into_any_layout(tiny_model, tmp_path, capfd, saved):
    """It is saved from one device, replicated or sharded, and restored to the host, replicated and sharded."""
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def sharded(leaf: Any) -> NamedSharding:
        """Shards the first axis that four devices can share; both groups of four have a copy."""
        axis = next((axis for axis, size in enumerate(leaf.shape) if size % 4 == 0), None)
        return NamedSharding(mesh, PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "model"))

    layouts = {
        "one device": lambda leaf: jax.sharding.SingleDeviceSharding(jax.devices()[3]),
        "replicated": lambda leaf: NamedSharding(mesh, PartitionSpec()),
        "sharded": sharded,
    }
    state = create_state(Transformer(tiny_model), make_optimizer(OptimizerConfig(), tiny_model.d_model, STEPS), seed=3)
    assert not all(sharded(leaf).is_fully_replicated for leaf in jax.tree.leaves(state))
    expected = jax.tree.map(np.array, state)
    donating = jax.jit(partial(jax.tree.map, lambda x: x + 1), donate_argnums=0)
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        placed = jax.device_put(state, jax.tree.map(layouts[saved], state))
        checkpoints.save(1, placed, {})
        jax.block_until_ready(donating(placed))
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        for layout in layouts.values():
            shapes = jax.tree.map(
                lambda x, layout=layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout(x)), state
            )
            restored = checkpoints.restore(1, shapes)
            for leaf, shape in zip(jax.tree.leaves(restored), jax.tree.leaves(shapes), strict=True):
                assert isinstance(leaf, jax.Array)
                assert leaf.sharding == shape.sharding
            jax.tree.map(np.testing.assert_array_equal, restored, expected)
        restored = checkpoints.restore(1, state)
        assert {type(leaf) for leaf in jax.tree.leaves(restored)} == {np.ndarray}
        jax.tree.map(np.testing.assert_array_equal, restored, expected)
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path, [1]), expected.params)
    assert not [*tmp_path.rglob("_sharding")]  # where orbax records devices
    assert not any(capfd.readouterr())

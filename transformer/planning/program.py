"""The training step, lowered and compiled for devices that may be absent."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Lowered

from transformer import parameters
from transformer.config import Config
from transformer.errors import InputError
from transformer.model import Transformer
from transformer.planning.hlo import parse
from transformer.planning.kernels import collectives, kernels, total
from transformer.planning.products import never_run
from transformer.planning.targets import Target
from transformer.shapes import DEVICES, Batch
from transformer.training import parallel
from transformer.training.arrangement import Arrangement, arrange
from transformer.training.mesh import ROWS, MeshStrategy
from transformer.training.optimizer import make_optimizer
from transformer.training.step import TrainState, configured, create_state


class Compiled(NamedTuple):
    """What XLA says of a compiled step, for one device."""

    rows: int
    """Rows of the batch on this device."""
    arguments: int
    """Bytes of the state and the batch."""
    temporary: int
    """Bytes of everything else: activations, gradients and whatever a kernel needs."""
    collectives: dict[str, int]
    seconds: float | None
    """Estimated time; None if there is no estimator for the device."""
    never_run: list[str]
    """Kernels whose time is an assumption, because they have not run on a card."""

    @property
    def bytes(self) -> int:
        return self.arguments + self.temporary


def arrangement(config: Config, devices: Sequence[Any]) -> Arrangement:
    """How the devices of a target, which may be those of several hosts, are arranged.

    Raises: InputError as `arrange` does.
    """
    processes = len({device.process_index for device in devices})
    return arrange(config.parallel, config.model, len(devices), processes)


def lower_step(config: Config, dtype: str, devices: Sequence[Any], rows: int, S: int, T: int) -> Lowered:
    """Lowers the training step, mapped over the devices of one host as `pmap` maps it, or over a mesh.

    Args:
        config: The experiment.
        dtype: The compute dtype, `bfloat16` or `float32`.
        devices: The devices that the step runs on, as `targets.devices_of` returns them.
        rows: Rows of each part of the batch, a multiple of the accumulation steps. With `pmap`, each device has a part;
            on a mesh, all devices along `tensor` share one.
        S, T: Source and target tokens of a row.

    Raises: InputError if the devices or the model do not fit the mesh.
    """
    training, backend = config.training, devices[0].platform
    model = Transformer(config.model, dtype=jnp.dtype(dtype), backend="gpu" if backend == "cuda" else backend)
    optimizer = make_optimizer(config.optimizer, config.model.d_model, training.steps)
    state = state_shapes(config, devices)
    if arrangement(config, devices).strategy == "mesh":
        strategy = MeshStrategy(config.parallel, config.model, devices)
        step = configured(config, model.clone(axes=strategy.axes), optimizer)
        mapped = strategy.map_train_step(step, state)
        shards, split = strategy.num_shards, NamedSharding(strategy.mesh, P(None, ROWS))
    else:
        mesh, spec = Mesh(np.array(devices), (DEVICES,)), P(None, DEVICES)
        own = partial(configured(config, model, optimizer), total=parallel.total)
        mapped = jax.shard_map(own, mesh=mesh, in_specs=(P(), spec), out_specs=P(), check_vma=False)
        mapped = jax.jit(mapped, donate_argnums=0)
        shards, split = len(devices), NamedSharding(mesh, spec)
    batch = packed_batch(training.accumulation_steps, rows * shards // training.accumulation_steps, S, T)
    return mapped.lower(state, _sharded(batch, jax.tree.map(lambda _: split, batch)))


def state_shapes(config: Config, devices: Sequence[Any]) -> TrainState:
    """The shapes, dtypes and shardings of the state of training.

    Args:
        config: The experiment.
        devices: The devices that the state is replicated or sharded on.

    Raises: InputError if the devices or the model do not fit the mesh.
    """
    training, model = config.training, Transformer(config.model)
    optimizer = make_optimizer(config.optimizer, config.model.d_model, training.steps)
    init = lambda params: create_state(model, optimizer, 0, params, training.freeze)  # noqa: E731
    state = jax.eval_shape(init, parameters.shapes(model))
    if arrangement(config, devices).strategy == "mesh":
        return _sharded(state, MeshStrategy(config.parallel, config.model, devices).shardings(state))
    replicated = NamedSharding(Mesh(np.array(devices), (DEVICES,)), P())
    return _sharded(state, jax.tree.map(lambda _: replicated, state))


def _sharded(tree: Any, shardings: Any) -> Any:
    """The shapes and dtypes of a tree, with shardings."""
    return jax.tree.map(lambda x, own: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=own), tree, shardings)


def packed_batch(accumulation_steps: int, rows: int, S: int, T: int) -> Batch:
    """The shapes and dtypes of a batch of packed rows [accumulation_steps, rows, S or T]."""

    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((accumulation_steps, rows, *shape), dtype)

    return Batch(
        source=array(jnp.int32, S),
        source_mask=array(jnp.bool_, S),
        target_input=array(jnp.int32, T),
        target_output=array(jnp.int32, T),
        target_mask=array(jnp.bool_, T),
        row=array(jnp.int32),
        source_segments=array(jnp.int32, S),
        target_segments=array(jnp.int32, T),
    )


def compile_step(
    config: Config, dtype: str, target: Target, devices: Sequence[Any], rows: int, S: int, T: int
) -> Compiled:
    """Compiles the training step. The arguments are those of `lower_step`.

    Raises: InputError if XLA cannot compile it.
    """
    try:
        program = lower_step(config, dtype, devices, rows, S, T).compile()
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"Cannot compile for {target.name}. XLA says: {str(error).splitlines()[0]}") from error
    memory, parsed = program.memory_analysis(), parse(program.as_text() or "")
    assert memory is not None
    on_card = target.backend == "gpu"
    return Compiled(
        rows=rows,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        collectives=dict(collectives(parsed)) if len(devices) > 1 else {},
        seconds=total(kernels(parsed)).seconds if on_card else None,
        never_run=never_run(parsed) if on_card else [],
    )

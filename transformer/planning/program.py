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

from transformer.config import Config
from transformer.errors import InputError
from transformer.model import Transformer
from transformer.planning.hlo import parse
from transformer.planning.kernels import collectives, kernels, total
from transformer.planning.products import never_run
from transformer.planning.targets import Target
from transformer.shapes import DEVICES, Batch
from transformer.training import parallel
from transformer.training.optimizer import make_optimizer
from transformer.training.step import configured, create_state


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


def lower_step(config: Config, dtype: str, devices: Sequence[Any], rows: int, S: int, T: int) -> Lowered:
    """Lowers the training step, mapped over the devices as `pmap` maps it.

    Args:
        config: The experiment.
        dtype: The compute dtype, `bfloat16` or `float32`.
        devices: The devices that the step runs on, as `targets.devices_of` returns them.
        rows: Rows of the batch per device, a multiple of the accumulation steps.
        S, T: Source and target tokens of a row.
    """
    training, backend = config.training, devices[0].platform
    model = Transformer(config.model, dtype=jnp.dtype(dtype), backend="gpu" if backend == "cuda" else backend)
    optimizer = make_optimizer(config.optimizer, config.model.d_model, training.steps)
    step = partial(configured(config, model, optimizer), total=parallel.total)
    mesh = Mesh(np.array(devices), (DEVICES,))
    replicated, split = P(), P(None, DEVICES)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(replicated, split), out_specs=replicated, check_vma=False)

    def shapes(tree: Any, spec: P) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    state = jax.eval_shape(partial(create_state, model, optimizer, config.seed, freeze=training.freeze))
    batch = packed_batch(training.accumulation_steps, rows * len(devices) // training.accumulation_steps, S, T)
    return jax.jit(mapped, donate_argnums=0).lower(shapes(state, replicated), shapes(batch, split))


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

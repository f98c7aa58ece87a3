"""The training step, lowered for devices that this machine does not have.

Importing this module starts jax, so set the environment variables before.
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Lowered

from transformer.config import Config
from transformer.model import Transformer
from transformer.shapes import DEVICES, Batch
from transformer.training import parallel
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state, train_step

H100 = Path(__file__).parent / "h100.txt"


def devices_of(backend: str, topology: str) -> list[Any]:
    """Describes devices of a backend for which a program can be compiled.

    Args:
        backend: `gpu` (an H100) or `tpu`.
        topology: Partitions x hosts x cards for a GPU, such as `1x1x8`. The name of the topology for a TPU, such as
            `v5e:2x2`.
    """
    if backend == "tpu":
        return topologies.get_topology_desc(topology, platform="tpu").devices
    card = H100.read_text(encoding="utf-8")
    return topologies.get_topology_desc(platform="cuda", target_config=card, topology=topology).devices


def lower_step(
    config: Config, dtype: str, backend: Literal["gpu", "tpu"], devices: list[Any], rows: int, length: int
) -> Lowered:
    """Lowers the training step, mapped over the devices as `pmap` maps it.

    Args:
        config: The experiment.
        dtype: The compute dtype, `bfloat16` or `float32`.
        backend: The backend that the model is traced for.
        devices: The devices that the step runs on, from `devices_of`.
        rows: Rows of the batch per device, a multiple of the accumulation steps.
        length: Tokens per row on each side.
    """
    training = config.training
    model = Transformer(config.model, dtype=jnp.dtype(dtype), backend=backend)
    optimizer = make_optimizer(config.optimizer, config.model.d_model, training.steps)
    step = partial(
        train_step,
        model=model,
        optimizer=optimizer,
        label_smoothing=training.label_smoothing,
        seed=config.seed,
        total=parallel.total,
    )
    mesh = Mesh(np.array(devices), (DEVICES,))
    replicated, split = P(), P(None, DEVICES)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(replicated, split), out_specs=replicated, check_vma=False)

    def shapes(tree: Any, spec: P) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    state = jax.eval_shape(partial(create_state, model, optimizer, config.seed))
    batch = packed_batch(training.accumulation_steps, rows * len(devices) // training.accumulation_steps, length)
    return jax.jit(mapped, donate_argnums=0).lower(shapes(state, replicated), shapes(batch, split))


def packed_batch(accumulation_steps: int, rows: int, length: int) -> Batch:
    """The shapes and dtypes of a batch of packed rows."""
    row: Any = jax.ShapeDtypeStruct((accumulation_steps, rows), jnp.int32)
    tokens: Any = jax.ShapeDtypeStruct((accumulation_steps, rows, length), jnp.int32)
    mask: Any = jax.ShapeDtypeStruct(tokens.shape, jnp.bool_)
    return Batch(
        source=tokens,
        source_mask=mask,
        target_input=tokens,
        target_output=tokens,
        target_mask=mask,
        row=row,
        source_segments=tokens,
        target_segments=tokens,
    )

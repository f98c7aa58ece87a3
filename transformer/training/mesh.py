"""Training on a mesh of devices, for models that outgrow one device.

Loss and gradient are computed by a function of one device, as in data parallelism: `jax.shard_map` maps it over the
mesh, and every collective in it is written out. The optimizer follows outside of it, on global arrays, which XLA
partitions. `sharding.py` says which parameter is sharded over which axes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Wrapped

from transformer.axes import Axes
from transformer.config import ModelConfig, ParallelConfig
from transformer.shapes import DEVICES, FSDP, TENSOR, Batch, Params
from transformer.training.arrangement import arrange
from transformer.training.sharding import gather, spec, specs

AXES = (DEVICES, FSDP, TENSOR)
ROWS = (DEVICES, FSDP)  # axes over which the rows of a batch are split


class MeshStrategy:
    """Rows split over `data` and `fsdp`, parameters over `fsdp` and `tensor`.

    Attributes:
        mesh: The devices.
        axes: How one device sees the model.
        num_shards: Number of parts of a batch.
    """

    def __init__(self, config: ParallelConfig, model: ModelConfig, devices: Sequence[Any]) -> None:
        """Arranges the devices.

        Args:
            config: Sizes of the mesh.
            model: Architecture of the model.
            devices: The devices that share a batch.

        Raises:
            InputError: The sizes do not give this number of devices, or do not divide what they split.
        """
        own = arrange(config, model, len(devices))
        sizes = own.data, own.fsdp, own.tensor
        # jax.make_mesh does the same, but refuses sizes that are not those of a TPU's torus, except for v5e.
        grid = create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        self.mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)
        self.axes = Axes(own.tensor, gather if own.fsdp > 1 else None)
        self.num_shards = own.num_shards
        index = jax.process_index()
        self._shards = [
            shard
            for shard, group in enumerate(grid.reshape(own.num_shards, -1))
            if any(device.process_index == index for device in group)
        ]

    def create(self, init: Callable[[Params], Any], params: Params) -> Any:
        """Creates the state of training, already sharded.

        Args:
            init: Function of the variables that returns the state.
            params: The variables of the model, on the host.
        """
        shardings = self.shardings(jax.eval_shape(init, params))

        def place(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
            return jax.make_array_from_callback(x.shape, sharding, lambda index: np.asarray(x[index]))

        placed = jax.tree.map(place, params, self.shardings(params))
        return jax.jit(init, out_shardings=shardings, donate_argnums=0)(placed)

    def shardings(self, tree: Any) -> Any:
        """Returns how each array of a state, or of its parameters, is sharded."""
        return jax.tree.map(lambda own: NamedSharding(self.mesh, own), specs(tree), is_leaf=lambda x: isinstance(x, P))

    def map_train_step(self, step: Callable[..., tuple[Any, Any]], state: Any) -> Wrapped:
        """Maps `step(state, batch, total, shard) -> (state, metrics)` over the mesh.

        The memory of the old state is donated.

        Args:
            step: The function `train_step`, with all other arguments.
            state: A state that `create` has made, or its shapes.

        Returns: A function of the state and of a batch, as `split` makes it.
        """

        def shard(summed_gradient: Callable) -> Callable:
            def mapped(trained: Params, *others: Any) -> Any:
                *trees, batch = others
                in_specs = (specs(trained), *map(specs, trees), P(None, ROWS))
                out_specs = specs(trained), P()
                # The sums over devices are written out, and so is their order: `_total` says which axes are left.
                return jax.shard_map(
                    summed_gradient, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
                )(trained, *trees, batch)

            return mapped

        def mapped_step(state: Any, batch: Batch) -> tuple[Any, Any]:
            return step(state, batch, total=_total, shard=shard)

        out_shardings = self.shardings(state), NamedSharding(self.mesh, P())
        return jax.jit(mapped_step, out_shardings=out_shardings, donate_argnums=0)

    def map_eval_step(self, step: Callable[..., Any]) -> Callable[[Params, Batch], Any]:
        """Maps `step(params, batch, total) -> sums` over the mesh."""

        def mapped_step(params: Params, batch: Batch) -> Any:
            return jax.shard_map(
                partial(step, total=lambda sums: lax.psum(sums, AXES)),
                mesh=self.mesh,
                in_specs=(specs(params), P(ROWS)),
                out_specs=P(),
                check_vma=False,
            )(params, batch)

        return jax.jit(mapped_step)

    def rows(self, number: int, accumulation_steps: int | None = None) -> np.ndarray:
        """Returns the rows of a batch that are on the devices of this process, which `split` takes.

        Args:
            number: Number of rows of the entire batch.
            accumulation_steps: As in `split`.
        """
        shards = np.arange(number) // (accumulation_steps or 1) % self.num_shards
        return np.flatnonzero(np.isin(shards, self._shards))

    def split(self, batch: Batch, accumulation_steps: int | None = None) -> Batch:
        """Splits the rows of a batch over devices and micro-batches, as `parallel.split` does.

        Args:
            batch: The `rows` of this process.
            accumulation_steps: Number of micro-batches per device; None adds no axis for them.

        Returns: A batch [accumulation_steps, B, ...], or [B, ...] if `accumulation_steps` is None. B is sharded, over
            the devices of all processes.
        """
        leading = () if accumulation_steps is None else (accumulation_steps,)
        sharding = NamedSharding(self.mesh, P(*[None] * len(leading), ROWS))

        def place(x: np.ndarray) -> jax.Array:
            rows = np.moveaxis(deal(x, (len(self._shards), *leading)), 0, len(leading))
            B = rows.shape[len(leading) + 1] * self.num_shards
            rows = rows.reshape(*leading, -1, *x.shape[1:])
            return jax.make_array_from_process_local_data(sharding, rows, (*leading, B, *x.shape[1:]))

        return jax.tree.map(place, batch)


def deal(x: np.ndarray, leading: tuple[int, ...]) -> np.ndarray:
    """Deals rows out in turn over leading axes, [rows, ...] -> [*leading, B, ...]."""
    return np.moveaxis(np.asarray(x).reshape(-1, *leading, *x.shape[1:]), 0, len(leading))


def _total(tree: Any) -> Any:
    """Sums what each device has computed over the axes that the array is not sharded over.

    Gradients of shards are already sums over `fsdp`, because `gather` has scattered them. Over `tensor`, each device
    has its own shard.
    """

    def leaf(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        return lax.psum(x, tuple(axis for axis in AXES if axis not in spec(path)))

    return jax.tree_util.tree_map_with_path(leaf, tree)

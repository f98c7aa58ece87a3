"""The axes of a mesh over which each parameter is sharded, as one table of rules.

The paths of parameters decide, so the model does not name shardings. The optimizer's moments have the paths of their
parameters, and are sharded like them.
"""

import re
from typing import Any

import jax
from jax.sharding import PartitionSpec

from transformer.parameters import STACKED
from transformer.shapes import FSDP, TENSOR, Params

RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(source_|target_|output_)?embedding", (TENSOR, FSDP)),  # [V, D]
    (r"positions", (None, FSDP)),  # [P, D]
    (r"(query|key|value)/kernel", (FSDP, TENSOR)),  # [D, H E]
    (r"output/kernel", (TENSOR, FSDP)),  # [H E, D]
    (r"kernel_in", (FSDP, TENSOR)),  # [D, F]
    (r"kernel_out", (TENSOR, FSDP)),  # [F, D]
    (r"(query|key|value)/bias|bias_in|logits_bias", (TENSOR,)),  # [H E], [F], [V]
    (r"(norm|output)/bias|bias_out|scale|mean|variance", ()),  # other vectors, of which every device has all
)
"""Pattern of the last names of a path, and the mesh axis of each axis of the array, without the axis of layers."""


def rules_of(path: tuple[Any, ...]) -> list[tuple[str | None, ...]]:
    """Returns the axes of each rule that the path of a parameter matches.

    Args:
        path: Path in a tree, as `jax.tree_util.tree_map_with_path` gives it.
    """
    name = "/".join(_names(path))
    return [axes for pattern, axes in RULES if re.fullmatch(rf"(.*/)?({pattern})", name)]


def spec(path: tuple[Any, ...]) -> PartitionSpec:
    """Returns how an array is sharded, by its path.

    An array that is no parameter, such as the number of a step, has no names on its path, and is not sharded.

    Args:
        path: Path in a tree of parameters, in a layer of it, or in a state of training or of an optimizer.
    """
    names = _names(path)
    if not names:
        return PartitionSpec()
    (axes,) = rules_of(path)
    return PartitionSpec(*((None,) * (STACKED in names and len(axes) > 0)), *axes)


def specs(tree: Any) -> Any:
    """Returns how each array of a tree is sharded, as `spec` does."""
    return jax.tree_util.tree_map_with_path(lambda path, _: spec(path), tree)


def gather(params: Params) -> Params:
    """Gathers the shards of parameters over the mapped axis `fsdp`, on each device.

    The gradient is scattered in the same way: each device gets the sum for its own shard.

    Args:
        params: Parameters of one layer, all of which are gathered. Or parameters of a model, of which those of layers
            are not: each layer gathers its own.
    """

    def leaf(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        axes = spec(path)
        if STACKED in _names(path) or FSDP not in axes:
            return x
        return jax.lax.all_gather(x, FSDP, axis=axes.index(FSDP), tiled=True)

    return jax.tree_util.tree_map_with_path(leaf, params)


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]

"""Euclidean norms of gradients and updates, by part of the model."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array

from transformer.parameters import STACKED


def norms(tree: Any, name: str) -> dict[str, Array]:
    """Computes the norm of a tree of arrays, and of each of its parts.

    A part is a stack of layers (`encoder`), or all other parameters that share the first two names of their path
    (`encoder/norm`, `embedding`).

    Args:
        tree: Arrays in the layout of a model's parameters, or some of them: parameters that are not trained have no
            gradient.
        name: Name of the norm of the whole tree.

    Returns:
        The norms by name: a scalar under `name`, and one under `name/part` for each part. A stack has an array of them,
        one for each layer.
    """
    squares: dict[str, Any] = {}
    for path, leaf in dict[Any, Any](flatten_dict(tree)).items():
        stacked = path[1:2] == (STACKED,)
        part = path[0] if stacked else "/".join(path[:2])
        squares[part] = squares.get(part, 0.0) + jnp.sum(jnp.square(leaf), axis=tuple(range(int(stacked), leaf.ndim)))
    total = sum(jnp.sum(square) for square in squares.values())
    return {name: jnp.sqrt(total)} | {f"{name}/{part}": jnp.sqrt(square) for part, square in squares.items()}


def by_layer(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Gives each element of an array of layers a name of its own.

    Args:
        metrics: Scalars and arrays [layers] by name, on the host.

    Returns:
        Numbers by name. The element of layer i of `name` is `name/i`, counted from 0.
    """
    return {
        f"{name}/{'/'.join(map(str, index))}".rstrip("/"): float(value[index])
        for name, value in metrics.items()
        for index in np.ndindex(np.shape(value))
    }

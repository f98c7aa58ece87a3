"""Looking at the gradient while a model trains."""

from typing import Any

import jax.numpy as jnp
import optax

from transformer.shapes import Array, Params


def norms_by_layer(gradient: Params) -> dict[str, Array]:
    """The Euclidean norm of each layer's part of a gradient.

    norm = sqrt(sum(g^2)), over all elements of the layer

    Args:
        gradient: a tree like the parameters, whose first level is the layers (`embedding`, `encoder_0` and so on).

    Returns: The norms by the names of that level.
    """
    return {name: optax.tree.norm(part) for name, part in gradient.items()}


def watch_norms() -> optax.GradientTransformation:
    """Passes the gradient on as it is and keeps its `norms_by_layer` as its state.

    The first in an `optax.chain`, it sees the gradient that the optimizer is given; before the first step all are 0.
    """

    def init(params: Params) -> dict[str, Array]:
        return dict.fromkeys(params, jnp.zeros(()))

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        return updates, norms_by_layer(updates)

    return optax.GradientTransformation(init, update)

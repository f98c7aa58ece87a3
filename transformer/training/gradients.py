"""Looking at the gradient while a model trains."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from transformer.parameters import STACKED
from transformer.shapes import Array, Params


def norms_by_layer(gradient: Params) -> dict[str, Array]:
    """The Euclidean norm of each layer's part of a gradient.

    norm = sqrt(sum(g^2)), over all elements of the layer

    Args:
        gradient: a tree like the parameters.

    Returns: Arrays [L] for the layers of `encoder` and `decoder`, and a number for every other part, by its path
        (`embedding`, `encoder/norm`).
    """
    norms = {}
    for name, part in gradient.items():
        if not isinstance(part, Mapping) or STACKED not in part:
            norms[name] = optax.tree.norm(part)
            continue
        norms[name] = jax.vmap(optax.tree.norm)(part[STACKED])
        norms |= {f"{name}/{own}": optax.tree.norm(leaves) for own, leaves in part.items() if own != STACKED}
    return norms


def watch_norms() -> optax.GradientTransformation:
    """Passes the gradient on as it is and keeps its `norms_by_layer` as its state.

    The first in an `optax.chain`, it sees the gradient that the optimizer is given; before the first step all are 0.
    """

    def init(params: Params) -> dict[str, Array]:
        return jax.tree.map(jnp.zeros_like, norms_by_layer(params))

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        return updates, norms_by_layer(updates)

    return optax.GradientTransformation(init, update)

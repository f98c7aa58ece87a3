"""This project without one of the things that make it fast: what each is worth.

Each variant puts the plain way in the place of ours before anything is traced; the model computes the same.
"""

from peers.ours import Ours  # isort: skip  it sets the allocator, before jax

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from peers.job import Job
from transformer import layers, model
from transformer.ops.dropout import DropoutKey

# Not by `from transformer.ops import linear`: that is the function of this name.
attention: Any = import_module("transformer.ops.attention")
linear: Any = import_module("transformer.ops.linear")
loss: Any = import_module("transformer.ops.loss")
normalization: Any = import_module("transformer.ops.normalization")


def start(job: Job, variant: str) -> Ours:
    VARIANTS[variant]()
    return Ours(job)


def transposes() -> None:
    """Transposes as XLA likes them, folded into the products behind them."""
    for module in (linear, attention, loss):
        module.move_axis = jnp.moveaxis


def products() -> None:
    """Gradients of projections, scores and mixtures by automatic differentiation, in the types that it chooses."""
    linear._product = linear._product.fun
    attention._mix = attention._mix.fun
    plain = linear.product_transposed.fun
    modules: tuple[Any, ...] = linear, attention, model
    for module in modules:
        module.product_transposed = plain


def norm() -> None:
    """Layer norm's gradient by automatic differentiation."""
    normalization._layer_norm = normalization._layer_norm.fun


def hashed() -> None:
    """Masks by jax.random.bernoulli, whose bits are threefry's; they are stored for the backward pass."""

    def dropout(x: Array, rate: float, key: DropoutKey, site: int) -> Array:
        if rate == 0:
            return x
        keep = jax.random.bernoulli(jax.random.fold_in(jax.random.key(key.stream), site), 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)

    layers.dropout = dropout


def chunks() -> None:
    """The logits of all tokens at once, in the same function."""
    model.cross_entropy = partial(loss.cross_entropy, chunk=2**30)


VARIANTS: dict[str, Callable[[], None]] = {
    "transposes": transposes,
    "products": products,
    "norm": norm,
    "hash": hashed,
    "chunks": chunks,
}

"""This project without one of the things that make it fast on a CPU: what each is worth.

Each variant replaces some functions of the implementation before anything is traced; the model computes the same.
"""

from peers.ours import Ours  # isort: skip  it sets the allocator, before jax

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from peers.job import Job
from transformer.ops import backward, cpu, implementation
from transformer.ops.dropout import DropoutKey
from transformer.ops.implementation import PLAIN, Implementation


def start(job: Job, variant: str) -> Ours:
    implementation.CPU = VARIANTS[variant](implementation.CPU)
    return Ours(job)


def transposes(ops: Implementation) -> Implementation:
    """Transposes as XLA likes them, folded into the products that follow them."""
    products = cpu.PRODUCTS._replace(move_axis=jnp.moveaxis)
    return ops._replace(
        linear=partial(backward.linear, products),
        output_logits=partial(backward.output_logits, products),
        attention=partial(backward.scaled_dot_product_attention, products),
        split_heads=PLAIN.split_heads,
        merge_heads=PLAIN.merge_heads,
        cross_entropy=partial(backward.cross_entropy, products, chunk=cpu.CHUNK),
    )


def products(ops: Implementation) -> Implementation:
    """Projections and attention as the equations are written, with automatic differentiation."""
    return ops._replace(linear=PLAIN.linear, attention=PLAIN.attention, output_logits=PLAIN.output_logits)


def norm(ops: Implementation) -> Implementation:
    """Layer norm's gradient by automatic differentiation."""
    return ops._replace(layer_norm=PLAIN.layer_norm)


def hashed(ops: Implementation) -> Implementation:
    """Masks by jax.random.bernoulli, whose bits are threefry's; they are stored for the backward pass."""

    def dropout(x: Array, rate: float, key: DropoutKey, site: int) -> Array:
        if rate == 0:
            return x
        keep = jax.random.bernoulli(jax.random.fold_in(jax.random.key(key.stream), site), 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)

    return ops._replace(dropout=dropout)


def chunks(ops: Implementation) -> Implementation:
    """The logits of all tokens at once, in the same function."""
    return ops._replace(cross_entropy=partial(backward.cross_entropy, cpu.PRODUCTS, chunk=2**30))


VARIANTS: dict[str, Callable[[Implementation], Implementation]] = {
    "transposes": transposes,
    "products": products,
    "norm": norm,
    "hash": hashed,
    "chunks": chunks,
    "everything": lambda _: PLAIN,
}

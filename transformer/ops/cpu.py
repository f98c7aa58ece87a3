"""What only XLA's CPU backend needs, each entry with its reason; seen on jax 0.10.2 (2026-11).

Nothing here changes a result. Where XLA has become able to do one of these things by itself, its entry can go: put the
plain function in its place in `PRODUCTS`, and let `benchmarks/training.py` and `benchmarks/decoding.py` compare.
"""

import math

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from transformer.ops.backward import Products

CHUNK = 512  # tokens of the loss at a time: their logits stay in the cache


def dot(a: Array, b: Array, contract: tuple[int, int], batch: int = 0, dtype: DTypeLike = jnp.float32) -> Array:
    """The product of `a` and `b` over one axis of each, after `batch` leading axes, accumulated in float32.

    XLA has a fast bfloat16 product on a CPU only for row-major operands and a row-major float32 result. The barrier
    keeps it from giving the product the layout of a later transpose, which fails at run time ("UNIMPLEMENTED:
    Unsupported element type for DotThunk").
    """
    axes = tuple(range(batch))
    product = lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), (axes, axes)), preferred_element_type=jnp.float32
    )
    return (lax.optimization_barrier(product) if a.dtype == jnp.bfloat16 else product).astype(dtype)


def product_transposed(a: Array, b: Array) -> Array:
    """a b^T in float32.

    With few rows in a, as in decoding, it takes a quarter of the time to transpose these, and then the product, than
    to transpose the many rows of b. The barrier keeps XLA from turning this back.
    """
    batch, (few, many) = a.ndim - 2, (a.shape[-2], b.shape[-2])
    known = isinstance(few, int) and isinstance(many, int)  # `jax.export` can leave sizes open
    if not batch or not known or 4 * few > many:
        return dot(a, b, (batch + 1, batch + 1), batch)
    product = lax.optimization_barrier(dot(b, move_axis(a, -1, -2), (batch + 1, batch), batch))
    return jnp.swapaxes(product, -1, -2)


def move_axis(x: Array, source: int, destination: int) -> Array:
    """`jnp.moveaxis` of one axis, written out in memory before it meets a product.

    XLA folds a transpose into the product that follows it, and then has no fast bfloat16 product: it converts both
    sides to float32. It folds neither a reshape that mixes axes nor a concatenation, so the axis is moved in two
    halves.
    """
    source, destination = source % x.ndim, destination % x.ndim
    size = x.shape[source]
    if size % 2:
        halves = lax.split(x, (size // 2, size - size // 2), source)
        return jnp.concatenate([jnp.moveaxis(half, source, destination) for half in halves], axis=destination)
    halves = x.reshape(*x.shape[:source], 2, size // 2, *x.shape[source + 1 :])
    moved = jnp.moveaxis(halves, (source, source + 1), (destination, destination + 1))
    return moved.reshape(*moved.shape[:destination], size, *moved.shape[destination + 2 :])


def top_k(x: Float[Array, "*rows V"], k: int) -> tuple[Float[Array, "*rows k"], Int[Array, "*rows k"]]:
    """`lax.top_k`, which is slow for long rows: the k largest of each row, largest first, and their indices.

    The k largest of a row lie in the k blocks that have the largest maxima, so only these are searched. A block takes
    every (V / 16)th element of a row, which lets the maxima be taken over whole vectors.

    Args:
        x: rows of numbers.
        k: how many of each row; at most V.
    """
    block = 16
    *rows, size = x.shape
    num_blocks = math.ceil(size / block)
    if num_blocks <= k:
        values, indices = lax.top_k(x, k)
        return values, indices
    padding = [(0, 0)] * len(rows) + [(0, num_blocks * block - size)]
    x = jnp.pad(x, padding, constant_values=-jnp.inf).reshape(*rows, block, num_blocks)
    _, blocks = lax.top_k(x.max(axis=-2), k)
    candidates = jnp.take_along_axis(x, blocks[..., None, :], axis=-1).reshape(*rows, block * k)
    values, chosen = lax.top_k(candidates, k)
    return values, chosen // k * num_blocks + jnp.take_along_axis(blocks, chosen % k, axis=-1)


PRODUCTS = Products(dot, product_transposed, move_axis)

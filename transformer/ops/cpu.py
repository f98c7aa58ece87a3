"""Variants of operations that XLA's CPU backend runs fast.

The docstring of each gives its reason, as measured with jax 0.10.2 (2026-11). No variant changes a result. Once XLA
runs the plain function as fast, use that instead. `benchmarks/training.py` and `benchmarks/decoding.py` compare them.
"""

import math

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from transformer.ops.backward import Products

CHUNK = 512  # tokens per chunk of the loss, few enough for their logits to stay in the cache


def dot(a: Array, b: Array, contract: tuple[int, int], batch: int = 0, dtype: DTypeLike = jnp.float32) -> Array:
    """Multiplies over one axis of each operand, accumulating in float32.

    On a CPU, XLA has a fast bfloat16 product only for row-major operands and a row-major float32 result. The barrier
    keeps XLA from giving the product the layout of a later transpose. That would fail at run time ("UNIMPLEMENTED:
    Unsupported element type for DotThunk").

    Args:
        a: First operand.
        b: Second operand.
        contract: Axis of `a` and axis of `b` to sum over.
        batch: Number of leading axes that both operands share.
        dtype: Dtype of the result.
    """
    axes = tuple(range(batch))
    product = lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), (axes, axes)), preferred_element_type=jnp.float32
    )
    return (lax.optimization_barrier(product) if a.dtype == jnp.bfloat16 else product).astype(dtype)


def product_transposed(a: Array, b: Array) -> Array:
    """Computes a b^T in float32.

    In decoding, `a` has few rows and `b` many. Transposing `a`, and then the product, takes a quarter of the time of
    transposing `b`. The barrier keeps XLA from undoing this.

    Args:
        a: Array [*batch, M, E].
        b: Array [*batch, N, E].
    """
    batch, (few, many) = a.ndim - 2, (a.shape[-2], b.shape[-2])
    known = isinstance(few, int) and isinstance(many, int)  # under `jax.export` they may be symbolic
    if not batch or not known or 4 * few > many:
        return dot(a, b, (batch + 1, batch + 1), batch)
    product = lax.optimization_barrier(dot(b, move_axis(a, -1, -2), (batch + 1, batch), batch))
    return jnp.swapaxes(product, -1, -2)


def move_axis(x: Array, source: int, destination: int) -> Array:
    """Moves one axis like `jnp.moveaxis`, writing the result to memory.

    XLA folds a transpose into the product that uses it, which costs the fast bfloat16 product: XLA converts both
    operands to float32. It folds neither a reshape that mixes axes nor a concatenation. So the axis is moved in two
    halves.

    Args:
        x: Array.
        source: Index of the axis to move.
        destination: Index of the axis in the result.
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
    """Finds the k largest elements of each row, like `lax.top_k`.

    `lax.top_k` is slow for long rows. This searches only the k blocks with the largest maxima, because they contain the
    k largest elements. A block takes every (V / 16)th element of a row, so the maxima are computed on vectors.

    Args:
        x: Rows of numbers.
        k: Number of elements to find in each row, at most V.

    Returns:
        The k largest elements of each row, largest first, and their indices.
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

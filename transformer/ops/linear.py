"""Matrix products with float32 accumulation, and gradients that are fast on every backend.

The gradients are written out for two reasons. Accuracy: a kernel's gradient is a float32 sum even where activations are
bfloat16. Speed on a CPU: XLA has a fast bfloat16 product only for row-major operands and a float32 result, and
automatic differentiation gives it neither.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float


def linear(
    x: Float[Array, "*batch D"], kernel: Float[Array, "D F"], bias: Float[Array, " F"] | None = None
) -> Float[Array, "*batch F"]:
    """x W + b, the projections of sections 3.2.2 and 3.3.

    Args:
        x: activations; their type is the type of the computation and of the result.
        kernel: W; its gradient has its own type, whatever the type of x.
        bias: b, or None for none.
    """
    y = _product(x, kernel)
    return y if bias is None else _add_bias(y, bias)


@jax.custom_vjp
def product_transposed(a: Float[Array, "*batch M E"], b: Float[Array, "*batch N E"]) -> Float[Array, "*batch M N"]:
    """a b^T, in float32 whatever the type of a and b: the scores Q K^T of Eq. 1, the logits of section 3.4."""
    batch, rows = a.ndim - 2, (a.shape[-2], b.shape[-2])  # no integers where `jax.export` has left them open
    few = bool(batch) and all(isinstance(number, int) for number in rows) and 4 * rows[0] <= rows[1]
    plain = partial(dot, contract=(batch + 1, batch + 1), batch=batch)
    return lax.platform_dependent(a, b, cpu=_product_of_few_rows, default=plain) if few else plain(a, b)


def _product_of_few_rows(a: Array, b: Array) -> Array:
    """The same, as in decoding: on a CPU it takes a quarter of the time to transpose the few rows of a, and then the
    product, than the many of b. The barrier keeps XLA from turning it back."""
    batch = a.ndim - 2
    product = lax.optimization_barrier(dot(b, move_axis(a, -1, -2), (batch + 1, batch), batch))
    return jnp.swapaxes(product, -1, -2)


def _product_transposed_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return product_transposed(a, b), (a, b)


def _product_transposed_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    a, b = saved
    g, batch = g.astype(a.dtype), a.ndim - 2
    da = dot(g, b, (batch + 1, batch), batch).astype(a.dtype)
    db = dot(move_axis(g, -1, -2), a, (batch + 1, batch), batch).astype(b.dtype)
    return da, db


product_transposed.defvjp(_product_transposed_forward, _product_transposed_backward)


def dot(a: Array, b: Array, contract: tuple[int, int], batch: int = 0) -> Array:
    """The product of `a` and `b` over one axis of each, behind `batch` leading axes, accumulated in float32."""
    axes = tuple(range(batch))
    product = lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), (axes, axes)), preferred_element_type=jnp.float32
    )
    # On a CPU a bfloat16 product with a float32 result exists for a row-major result only. The barrier keeps XLA from
    # handing the layout of a later transpose back to the product, which would fail at run time ("UNIMPLEMENTED:
    # Unsupported element type for DotThunk").
    if a.dtype != jnp.bfloat16:
        return product
    return lax.platform_dependent(product, cpu=lax.optimization_barrier, default=lambda product: product)


def move_axis(x: Array, source: int, destination: int) -> Array:
    """`jnp.moveaxis` of one axis; on a CPU written out in memory before it meets a product.

    XLA folds a transpose into the product behind it, and then has no fast bfloat16 product on a CPU: it converts both
    sides to float32. It folds neither a reshape that mixes axes nor a concatenation.
    """
    source, destination = source % x.ndim, destination % x.ndim
    return lax.platform_dependent(
        x,
        cpu=partial(_move_axis_in_halves, source=source, destination=destination),
        default=partial(jnp.moveaxis, source=source, destination=destination),
    )


def _move_axis_in_halves(x: Array, source: int, destination: int) -> Array:
    size = x.shape[source]
    if size % 2:
        halves = lax.split(x, (size // 2, size - size // 2), source)
        return jnp.concatenate([jnp.moveaxis(half, source, destination) for half in halves], axis=destination)
    halves = x.reshape(*x.shape[:source], 2, size // 2, *x.shape[source + 1 :])
    moved = jnp.moveaxis(halves, (source, source + 1), (destination, destination + 1))
    return moved.reshape(*moved.shape[:destination], size, *moved.shape[destination + 2 :])


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    y = dot(_rows(x), kernel.astype(x.dtype), (1, 0)).astype(x.dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[1])


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, kernel), (x, kernel)


def _product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    g = _rows(g)
    dx = dot(g, kernel.astype(x.dtype), (1, 1)).astype(x.dtype).reshape(x.shape)
    columns = move_axis(_rows(x), -1, 0)
    return dx, dot(columns, g, (1, 0)).astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _add_bias(y: Array, bias: Array) -> Array:
    return y + bias.astype(y.dtype)


def _add_bias_forward(y: Array, bias: Array) -> tuple[Array, Array]:
    return _add_bias(y, bias), bias


def _add_bias_backward(bias: Array, g: Array) -> tuple[Array, Array]:
    return g, _rows(g).sum(0, dtype=jnp.float32).astype(bias.dtype)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])

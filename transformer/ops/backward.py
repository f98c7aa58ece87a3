"""The functions of `ops` with their backward passes written out, for training.

They compute the same equations as the plain functions. A written-out backward pass sums the gradient of a kernel in
float32 over products of bfloat16 numbers, and keeps few residuals. Automatic differentiation does neither. These
functions have a gradient only: `jvp` and second derivatives need the plain functions. The loss is in
`backward_loss.py`.

The functions are the same on every backend; only `Products` differs.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from transformer.ops.attention import masked_softmax
from transformer.ops.dropout import DropoutKey, keep_mask, scale_kept
from transformer.ops.dropout import dropout as plain_dropout
from transformer.ops.precision import MatmulPrecision

ATTENDED = "attended"  # name of what fused attention keeps for its backward pass, for policies of rematerialization
custom_vjp: Any = jax.custom_vjp  # its annotations lose the return type of the decorated function


class Products(NamedTuple):
    """Matrix products of one backend.

    Attributes:
        dot: Function of (a, b, contract, batch, dtype). It sums products over one axis of each operand, given by
            `contract`, after `batch` leading axes. It accumulates in float32 and returns `dtype`.
        transposed: Function of (a [*batch, M, E], b [*batch, N, E]). It returns a b^T in float32.
        move_axis: Function like `jnp.moveaxis`, for one axis.
        precision: Precision of `dot` and `transposed` for float32 numbers.
    """

    dot: Callable[[Array, Array, tuple[int, int], int, DTypeLike], Array]
    transposed: Callable[[Array, Array], Array]
    move_axis: Callable[[Array, int, int], Array]
    precision: MatmulPrecision = "float32"


def linear(
    products: Products,
    x: Float[Array, "*batch D"],
    kernel: Float[Array, "D F"],
    bias: Float[Array, " F"] | None = None,
) -> Float[Array, "*batch F"]:
    """Computes `ops.linear`, with the kernel in the dtype of `x`."""
    y = _product(products, x, kernel)
    return y if bias is None else _add_bias(y, bias)


def output_logits(
    products: Products,
    hidden: Float[Array, "*batch D"],
    embedding: Float[Array, "V D"],
    bias: Float[Array, " V"] | None = None,
) -> Float[Array, "*batch V"]:
    """Computes `ops.output_logits`, with the embedding in the dtype of `hidden`."""
    rows = _rows(hidden)
    logits = _product_transposed(products, rows, embedding.astype(rows.dtype))
    logits = logits if bias is None else logits + bias
    return logits.reshape(*hidden.shape[:-1], -1)


def scaled_dot_product_attention(
    products: Products,
    query: Float[Array, "*batch Q E"],
    key: Float[Array, "*batch K E"],
    value: Float[Array, "*batch K E_value"],
    mask: Shaped[Array, "..."] | None = None,
    *,
    dropout: Callable[[Array], Array] | None = None,
    return_weights: bool = False,
) -> tuple[Float[Array, "*batch Q E_value"], Float[Array, "*batch Q K"] | None]:
    """Computes `ops.scaled_dot_product_attention`.

    The attention weights are rounded to the dtype of `value` before dropout and before they multiply the values.
    """
    scores = _product_transposed(products, query, key) / math.sqrt(query.shape[-1])
    weights = masked_softmax(scores, mask)
    mixed = weights.astype(value.dtype)
    attended = _mix(products, mixed if dropout is None else dropout(mixed), value)
    return attended, weights if return_weights else None


def split_heads(
    products: Products, x: Float[Array, "*batch T D"], num_heads: int
) -> Float[Array, "*batch {num_heads} T E"]:
    """Computes `ops.split_heads`."""
    *batch, length, width = x.shape
    return products.move_axis(x.reshape(*batch, length, num_heads, width // num_heads), -2, -3)


def merge_heads(products: Products, x: Float[Array, "*batch H T E"]) -> Float[Array, "*batch T D"]:
    """Computes `ops.merge_heads`."""
    *batch, heads, length, size = x.shape
    return products.move_axis(x, -3, -2).reshape(*batch, length, heads * size)


@partial(custom_vjp, nondiff_argnums=(0,))
def relu(keep: Callable[[Array], Array], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Computes max(0, x).

    Its residual is the result, which the next product needs anyway. `keep` is the identity, but may keep the compiler
    from computing the residual from x.
    """
    return jnp.maximum(x, 0)


def _relu_forward(keep: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    y = keep(relu(keep, x))
    return y, y


def _relu_backward(keep: Callable[[Array], Array], y: Array, g: Array) -> tuple[Array]:
    return (jnp.where(y > 0, g, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def _multiply(products: Products, x: Array, kernel: Array) -> Array:
    y = products.dot(_rows(x), kernel.astype(x.dtype), (1, 0), 0, x.dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[1])


_product = partial(custom_vjp, nondiff_argnums=(0,))(_multiply)


def _product_forward(products: Products, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    # Not `_product`: a policy of rematerialization does not see the products inside another custom VJP.
    return _multiply(products, x, kernel), (x, kernel)


def _product_backward(products: Products, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    g = _rows(g)
    dx = products.dot(g, kernel.astype(x.dtype), (1, 1), 0, x.dtype).reshape(x.shape)
    return dx, products.dot(products.move_axis(_rows(x), -1, 0), g, (1, 0), 0, kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


@custom_vjp
def _add_bias(y: Array, bias: Array) -> Array:
    return y + bias.astype(y.dtype)


def _add_bias_forward(y: Array, bias: Array) -> tuple[Array, Array]:
    return _add_bias(y, bias), bias


def _add_bias_backward(bias: Array, g: Array) -> tuple[Array, Array]:
    return g, _rows(g).sum(0, dtype=jnp.float32).astype(bias.dtype)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@partial(custom_vjp, nondiff_argnums=(0,))
def _product_transposed(products: Products, a: Array, b: Array) -> Array:
    """Computes a b^T in float32, whatever the dtype of a and b."""
    return products.transposed(a, b)


def _product_transposed_forward(products: Products, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return products.transposed(a, b), (a, b)


def _product_transposed_backward(products: Products, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    a, b = saved
    g, batch = g.astype(a.dtype), a.ndim - 2
    da = products.dot(g, b, (batch + 1, batch), batch, a.dtype)
    return da, products.dot(products.move_axis(g, -1, -2), a, (batch + 1, batch), batch, b.dtype)


_product_transposed.defvjp(_product_transposed_forward, _product_transposed_backward)


@partial(custom_vjp, nondiff_argnums=(0,))
def _mix(products: Products, weights: Array, value: Array) -> Array:
    """Sums the values, weighted by the attention weights."""
    return products.dot(weights, value, (weights.ndim - 1, value.ndim - 2), weights.ndim - 2, value.dtype)


def _mix_forward(products: Products, weights: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
    return _mix(products, weights, value), (weights, value)


def _mix_backward(products: Products, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    weights, value = saved
    batch = value.ndim - 2
    dweights = products.dot(g, value, (batch + 1, batch + 1), batch, weights.dtype)
    return dweights, products.dot(products.move_axis(weights, -1, -2), g, (batch + 1, batch), batch, value.dtype)


_mix.defvjp(_mix_forward, _mix_backward)


@custom_vjp
def layer_norm(
    x: Float[Array, "... D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    epsilon: float | Float[Array, ""] = 1e-6,
) -> Float[Array, "... D"]:
    """Computes `ops.layer_norm`.

    The residuals are `x` in its own dtype, the scale, and two numbers per token.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array, epsilon: float | Array) -> tuple[Array, tuple]:
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    inverse_deviation = lax.rsqrt(jnp.square(x32 - mean).mean(-1, keepdims=True) + epsilon)
    normalized = (x32 - mean) * inverse_deviation
    return (normalized * scale + bias).astype(x.dtype), (x, scale, mean, inverse_deviation)


def _layer_norm_backward(saved: tuple, g: Array) -> tuple[Array, Array, Array, Array]:
    x, scale, mean, inverse_deviation = saved
    normalized, g = (x.astype(jnp.float32) - mean) * inverse_deviation, g.astype(jnp.float32)
    tokens, scaled = tuple(range(x.ndim - 1)), g * scale
    along = (scaled * normalized).mean(-1, keepdims=True)
    dx = inverse_deviation * (scaled - scaled.mean(-1, keepdims=True) - normalized * along)
    dscale, dbias = (g * normalized).sum(tokens).astype(scale.dtype), g.sum(tokens).astype(scale.dtype)
    depsilon = -0.5 * x.shape[-1] * (along * jnp.square(inverse_deviation)).sum()
    return dx.astype(x.dtype), dscale, dbias, depsilon


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def dropout(
    x: Float[Array, "B *axes"], rate: float | Float[Array, ""], key: DropoutKey, site: int
) -> Float[Array, "B *axes"]:
    """Computes `ops.dropout`.

    The backward pass recomputes the mask from the key. A rate given as an array may be traced. The plain
    function then computes the dropout, and keeps the mask.
    """
    if isinstance(rate, Array):
        return plain_dropout(x, rate, key, site)
    return x if rate == 0 else _dropout(x, rate, site, key)


@partial(custom_vjp, nondiff_argnums=(1, 2))
def _dropout(x: Array, rate: float, site: int, key: DropoutKey) -> Array:
    return scale_kept(x, rate, keep_mask(x.shape, rate, key, site))


def _dropout_forward(x: Array, rate: float, site: int, key: DropoutKey) -> tuple[Array, DropoutKey]:
    return _dropout(x, rate, site, key), key


def _dropout_backward(rate: float, site: int, key: DropoutKey, g: Array) -> tuple[Array, None]:
    return _dropout(g, rate, site, key), None


_dropout.defvjp(_dropout_forward, _dropout_backward)


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])

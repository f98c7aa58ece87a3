"""Selection of the functions that a model calls, by name and backend."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from transformer.errors import require_choice
from transformer.ops import backward, backward_loss, cpu
from transformer.ops.attention import merge_heads, scaled_dot_product_attention, split_heads
from transformer.ops.backward import Products
from transformer.ops.dropout import dropout
from transformer.ops.linear import linear, output_logits
from transformer.ops.loss import CHUNK, cross_entropy
from transformer.ops.normalization import layer_norm

LOGITS_OF_A_CHUNK = 2**28  # elements, or 1 GiB in float32, on an accelerator


class Implementation(NamedTuple):
    """The functions of `ops` that have several implementations.

    Each function computes the same as the plain function of the same name (`attention` as
    `ops.scaled_dot_product_attention`).
    """

    linear: Callable[..., Array]
    output_logits: Callable[..., Array]
    attention: Callable[..., tuple[Array, Array | None]]
    split_heads: Callable[..., Array]
    merge_heads: Callable[..., Array]
    layer_norm: Callable[..., Array]
    dropout: Callable[..., Array]
    cross_entropy: Callable[..., tuple[Array, Array]]


def select(name: Literal["auto", "plain"], backend: str) -> Implementation:
    """Selects an implementation by its name and the backend.

    Args:
        name: `plain` for the equations as they are written in `ops`, which differentiate in every mode. `auto` for the
            functions that train fastest on the backend, with their backward passes written out (`ops.backward`).
        backend: Backend that the program is compiled for: `cpu`, `gpu` or `tpu`.

    Returns:
        The functions that a model calls.

    Raises:
        InputError: There is no implementation of this name.
    """
    require_choice("The implementation", name, ("auto", "plain"))
    if name == "plain":
        return PLAIN
    return CPU if backend == "cpu" else ACCELERATOR


def _written_out(products: Products, cross_entropy: Callable[..., tuple[Array, Array]]) -> Implementation:
    return Implementation(
        linear=partial(backward.linear, products),
        output_logits=partial(backward.output_logits, products),
        attention=partial(backward.scaled_dot_product_attention, products),
        split_heads=partial(backward.split_heads, products),
        merge_heads=partial(backward.merge_heads, products),
        layer_norm=backward.layer_norm,
        dropout=backward.dropout,
        cross_entropy=partial(cross_entropy, products),
    )


def _dot(a: Array, b: Array, contract: tuple[int, int], batch: int = 0, dtype: DTypeLike = jnp.float32) -> Array:
    axes = tuple(range(batch))
    return lax.dot_general(a, b, (((contract[0],), (contract[1],)), (axes, axes)), preferred_element_type=dtype)


def _product_transposed(a: Array, b: Array) -> Array:
    return _dot(a, b, (a.ndim - 1, b.ndim - 1), a.ndim - 2)


def _cross_entropy(products: Products, hidden: Array, embedding: Array, *rest: Array, **options: Any) -> Any:
    chunk = max(LOGITS_OF_A_CHUNK // embedding.shape[0] // CHUNK, 1) * CHUNK
    return backward_loss.cross_entropy(products, hidden, embedding, *rest, chunk=chunk, **options)


PLAIN = Implementation(
    linear=linear,
    output_logits=output_logits,
    attention=scaled_dot_product_attention,
    split_heads=split_heads,
    merge_heads=merge_heads,
    layer_norm=layer_norm,
    dropout=dropout,
    cross_entropy=cross_entropy,
)
CPU = _written_out(cpu.PRODUCTS, partial(backward_loss.cross_entropy, chunk=cpu.CHUNK))
ACCELERATOR = _written_out(Products(_dot, _product_transposed, jnp.moveaxis), _cross_entropy)

"""Selection of the functions that a model calls, by name and backend."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from transformer.errors import require_choice
from transformer.ops import backward, backward_loss, cpu
from transformer.ops.attention import merge_heads, scaled_dot_product_attention, split_heads
from transformer.ops.attention_gpu import flash_attention
from transformer.ops.attention_tpu import splash_attention
from transformer.ops.backward import Products
from transformer.ops.backward_loss import (
    Logits,
    softmax_with_recomputed_exponentials,
    softmax_with_stored_exponentials,
)
from transformer.ops.blockwise import blockwise_attention
from transformer.ops.dropout import dropout
from transformer.ops.linear import linear, output_logits
from transformer.ops.loss import cross_entropy
from transformer.ops.normalization import layer_norm
from transformer.ops.precision import MatmulPrecision, product_precision

LOGITS_OF_A_CHUNK = 2**28  # elements, or 512 MiB in bfloat16, on an accelerator
ROWS = 64  # of a tile that an accelerator multiplies: a chunk has a multiple of them


IN_FLOAT32 = Logits(jnp.float32, softmax_with_stored_exponentials)
AS_HIDDEN = Logits(None, softmax_with_recomputed_exponentials)


class Implementation(NamedTuple):
    """The functions of `ops` that have several implementations.

    Each function computes the same as the plain function of the same name (`attention` as
    `ops.scaled_dot_product_attention`).
    """

    linear: Callable[..., Array]
    relu: Callable[[Array], Array]
    output_logits: Callable[..., Array]
    attention: Callable[..., tuple[Array, Array | None]]
    split_heads: Callable[..., Array]
    merge_heads: Callable[..., Array]
    layer_norm: Callable[..., Array]
    dropout: Callable[..., Array]
    cross_entropy: Callable[..., tuple[Array, Array]]


def select(name: Literal["auto", "plain"], backend: str, precision: MatmulPrecision = "float32") -> Implementation:
    """Selects an implementation by its name, the backend and the precision.

    Args:
        name: `plain` for the equations as they are written in `ops`, which differentiate in every mode. `auto` for the
            functions that train fastest on the backend, with their backward passes written out (`ops.backward`).
        backend: Backend that the program is compiled for: `cpu`, `gpu` or `tpu`.
        precision: Precision of the products of float32 numbers. The `auto` functions of a CPU need none.

    Returns:
        The functions that a model calls.

    Raises:
        InputError: There is no implementation of this name.
    """
    require_choice("The implementation", name, ("auto", "plain"))
    if name == "plain":
        return _plain(precision)
    return CPU if backend == "cpu" else _accelerator(precision)


FusedAttention = Callable[..., Array]
"""Function with the arguments of `blockwise_attention`, which stores no attention weights."""
LONG = 2048  # keys above which attention weights take more memory than the activations of a large model
LARGEST_HEAD = 128  # features of a head up to which the blocks of the GPU kernel fit into shared memory
TESTED_GPUS = ("9.0",)  # compute capabilities of the GPUs on which the kernel has passed the tests of `ops`


def select_fused(
    name: Literal["auto", "plain", "fused"],
    backend: str,
    keys: int,
    head_size: int,
    precision: MatmulPrecision = "float32",
) -> FusedAttention | None:
    """Selects the attention by its name, the backend and the shape of the rows.

    `auto` chooses only among functions that have passed the tests of `ops` on such a device. Splash attention has not
    run on a TPU yet.

    Args:
        name: `model.attention`.
        backend: Backend that the program is compiled for: `cpu`, `gpu` or `tpu`.
        keys: Number of keys of a row.
        head_size: Number of features of a head.
        precision: Precision of the products of float32 numbers, in which splash attention always uses float32.

    Returns:
        An attention that stores no weights, or None for the plain one.
    """
    has_kernel = backend == "gpu" and head_size <= LARGEST_HEAD
    match name:
        case "fused" if backend == "tpu":
            return splash_attention
        case "fused":
            return partial(flash_attention if has_kernel else blockwise_attention, precision=precision)
        case "auto" if has_kernel and _is_tested(jax.devices()[0]):
            return partial(flash_attention, precision=precision)
        case "auto" if keys > LONG:
            return partial(blockwise_attention, precision=precision)
    return None


def _is_tested(device: Any) -> bool:
    """Whether a device has a tested compute capability. A program compiled for an absent GPU is for a tested one."""
    return device.platform != "gpu" or device.compute_capability in TESTED_GPUS


def _written_out(
    products: Products, cross_entropy: Callable[..., tuple[Array, Array]], keep: Callable[[Array], Array] = lambda x: x
) -> Implementation:
    return Implementation(
        linear=partial(backward.linear, products),
        relu=partial(backward.relu, keep),
        output_logits=partial(backward.output_logits, products),
        attention=partial(backward.scaled_dot_product_attention, products),
        split_heads=partial(backward.split_heads, products),
        merge_heads=partial(backward.merge_heads, products),
        layer_norm=backward.layer_norm,
        dropout=backward.dropout,
        cross_entropy=partial(cross_entropy, products),
    )


def _dot(
    a: Array,
    b: Array,
    contract: tuple[int, int],
    batch: int = 0,
    dtype: DTypeLike = jnp.float32,
    *,
    precision: MatmulPrecision,
) -> Array:
    axes = tuple(range(batch))
    numbers = ((contract[0],), (contract[1],)), (axes, axes)
    exact = product_precision(precision, a, b)
    return lax.dot_general(a, b, numbers, precision=exact, preferred_element_type=dtype)


def _product_transposed(a: Array, b: Array, *, precision: MatmulPrecision) -> Array:
    return _dot(a, b, (a.ndim - 1, b.ndim - 1), a.ndim - 2, precision=precision)


def _cross_entropy(products: Products, hidden: Array, embedding: Array, *rest: Any, **options: Any) -> Any:
    """In as few chunks as memory allows, of equal size, because the last one is filled up with padding."""
    tokens, vocabulary = hidden.shape[0], embedding.shape[0]
    chunks = math.ceil(tokens * vocabulary / LOGITS_OF_A_CHUNK)
    chunk = math.ceil(tokens / chunks / ROWS) * ROWS
    return backward_loss.cross_entropy(products, hidden, embedding, *rest, chunk=chunk, logits=AS_HIDDEN, **options)


@cache
def _plain(precision: MatmulPrecision) -> Implementation:
    return Implementation(
        linear=partial(linear, precision=precision),
        relu=jax.nn.relu,
        output_logits=partial(output_logits, precision=precision),
        attention=partial(scaled_dot_product_attention, precision=precision),
        split_heads=split_heads,
        merge_heads=merge_heads,
        layer_norm=layer_norm,
        dropout=dropout,
        cross_entropy=partial(cross_entropy, precision=precision),
    )


@cache
def _accelerator(precision: MatmulPrecision) -> Implementation:
    dot, transposed = (partial(function, precision=precision) for function in (_dot, _product_transposed))
    products = Products(dot, transposed, jnp.moveaxis, precision)
    # XLA, jax 0.11: without the barrier, a GPU stores the input of ReLU as well, and runs a kernel for the maximum.
    return _written_out(products, _cross_entropy, lax.optimization_barrier)


PLAIN = _plain("float32")
CPU = _written_out(cpu.PRODUCTS, partial(backward_loss.cross_entropy, chunk=cpu.CHUNK, logits=IN_FLOAT32))
ACCELERATOR = _accelerator("float32")

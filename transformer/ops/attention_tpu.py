"""Attention on a TPU, by jax's splash attention."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from transformer.ops.backward import ATTENDED, custom_vjp

BLOCK = 128  # a TPU's vector registers have 128 lanes: queries and keys come in multiples of them


def splash_attention(
    query: Float[Array, "B Q H E"],
    key: Float[Array, "B K H E"],
    value: Float[Array, "B K H E"],
    query_segments: Int[Array, "B Q"],
    key_segments: Int[Array, "B K"],
    is_causal: bool,
    interpret: bool = False,
) -> Float[Array, "B Q H E"]:
    """`blockwise_attention`, computed by the kernels of `jax.experimental.pallas.ops.tpu`.

    Rows are filled up to a multiple of 128 positions, so short rows are better served by plain attention. The products
    of float32 numbers are exact to float32.

    Args:
        query, key, value, query_segments, key_segments, is_causal: As for `blockwise_attention`.
        interpret: Run the kernel as a JAX program, on any backend.
    """
    # Imported here: it takes a third of a second, and is needed on a TPU alone.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    def heads_first(x: Array) -> Array:
        return jnp.swapaxes(_padded(x), 1, 2)

    q, k, v = heads_first(query / math.sqrt(query.shape[-1])), heads_first(key), heads_first(value)
    queries, keys = _padded(query_segments), _padded(key_segments)
    one_head: Any = (splash.CausalMask if is_causal else splash.FullMask)((q.shape[2], k.shape[2]))
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([one_head] * q.shape[1]), residual_checkpoint_name=ATTENDED, interpret=interpret
    )
    attended: Any = _in_own_precision(jax.vmap(kernel), splash.SegmentIds(queries, keys), q, k, v)
    # The kernel averages over all keys where a query may attend to none.
    attends = (queries != 0) & (queries[:, :, None] == keys[:, None, :]).any(-1)
    attended = jnp.where(attends[:, :, None, None], jnp.swapaxes(attended, 1, 2), 0)
    return attended[:, : query.shape[1]].astype(value.dtype)


def _padded(x: Array) -> Array:
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % BLOCK)] + [(0, 0)] * (x.ndim - 2))


def _precision_of(x: Array) -> Any:
    """Returns a context that sets the precision of the kernels, which take no argument for it.

    Mosaic compiles no other precision of float32 than `float32`, and none of bfloat16 but the default.
    """
    return jax.default_matmul_precision("float32" if x.dtype == jnp.float32 else "default")


@partial(custom_vjp, nondiff_argnums=(0,))
def _in_own_precision(kernel: Callable, segments: Any, query: Array, key: Array, value: Array) -> Array:
    with _precision_of(query):
        return kernel(query, key, value, segments)


def _forward(kernel: Callable, segments: Any, query: Array, key: Array, value: Array) -> tuple[Array, Any]:
    with _precision_of(query):
        return jax.vjp(lambda *given: kernel(*given, segments), query, key, value)


def _backward(kernel: Callable, pull: Any, gradient: Array) -> tuple[Any, ...]:
    with _precision_of(gradient):
        return None, *pull(gradient)


_in_own_precision.defvjp(_forward, _backward)

"""Attention on a TPU, by jax's splash attention."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from transformer.ops.backward import ATTENDED

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

    Rows are filled up to a multiple of 128 positions, so short rows are better served by plain attention.

    Args:
        query: Q.
        key: K.
        value: V.
        query_segments: Number of the segment of each query, from 1; 0 is padding, which attends to nothing.
        key_segments: The same for the keys.
        is_causal: Whether a query attends to no later key.
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
    attended: Any = jax.vmap(kernel)(q, k, v, splash.SegmentIds(queries, keys))
    # The kernel averages over all keys where a query may attend to none.
    attends = (queries != 0) & (queries[:, :, None] == keys[:, None, :]).any(-1)
    attended = jnp.where(attends[:, :, None, None], jnp.swapaxes(attended, 1, 2), 0)
    return attended[:, : query.shape[1]].astype(value.dtype)


def _padded(x: Array) -> Array:
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % BLOCK)] + [(0, 0)] * (x.ndim - 2))

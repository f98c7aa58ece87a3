"""Attention on a GPU as one kernel for each pass, which keeps the scores of a block in registers (Pallas, Triton).

Source: Dao 2023, "FlashAttention-2". The kernels also run interpreted, on any backend, which is how they are tested
where there is no GPU.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Float, Int

from transformer.ops.backward import ATTENDED, custom_vjp
from transformer.ops.precision import MatmulPrecision, product_precision

BLOCK = 64  # queries and keys of one tile of scores
LOG2_E = math.log2(math.e)


@partial(custom_vjp, nondiff_argnums=(5, 6, 7))
def flash_attention(
    query: Float[Array, "B Q H E"],
    key: Float[Array, "B K H E"],
    value: Float[Array, "B K H E"],
    query_segments: Int[Array, "B Q"],
    key_segments: Int[Array, "B K"],
    is_causal: bool,
    interpret: bool = False,
    precision: MatmulPrecision = "float32",
) -> Float[Array, "B Q H E"]:
    """`blockwise_attention`, computed by one kernel.

    Args:
        query, key, value, query_segments, key_segments, is_causal: As for `blockwise_attention`.
        interpret: Run the kernel as a JAX program, on any backend.
        precision: Precision of the products of float32 numbers.
    """
    return _forward(query, key, value, query_segments, key_segments, is_causal, interpret, precision)[0]


class _Tiles:
    """How arrays are cut into what one program of the grid (batch, head, block) reads and writes."""

    def __init__(self, query: Array, key: Array) -> None:
        self.batch, self.queries, self.heads, self.size = query.shape
        self.keys = key.shape[1]

    def spec(self, length: int, whole: bool) -> pl.BlockSpec:
        """Of [B, length, H, E]: one block of positions, or all of them."""
        if whole:
            return pl.BlockSpec((None, length, None, self.size), lambda b, h, i: (b, 0, h, 0))
        return pl.BlockSpec((None, BLOCK, None, self.size), lambda b, h, i: (b, i, h, 0))

    def segments(self, length: int, whole: bool) -> pl.BlockSpec:
        """Of [B, length]."""
        if whole:
            return pl.BlockSpec((None, length), lambda b, h, i: (b, 0))
        return pl.BlockSpec((None, BLOCK), lambda b, h, i: (b, i))

    def numbers(self, length: int, whole: bool) -> pl.BlockSpec:
        """Of [B, H, length]."""
        if whole:
            return pl.BlockSpec((None, None, length), lambda b, h, i: (b, h, 0))
        return pl.BlockSpec((None, None, BLOCK), lambda b, h, i: (b, h, i))


def _padded(x: Array, is_feature: bool = True) -> Array:
    """With the length a multiple of the block, and the features of a head a power of two of at least 16."""
    pads = [(0, 0), (0, -x.shape[1] % BLOCK)] + [(0, 0)] * (x.ndim - 2)
    if is_feature:
        pads[-1] = (0, max(pl.next_power_of_2(x.shape[-1]), 16) - x.shape[-1])
    return jnp.pad(x, pads) if any(after for _, after in pads) else x


def _allowed(query_segments: Array, key_segments: Array, query_start: Any, key_start: Any, causal: bool) -> Array:
    allowed = (query_segments[:, None] == key_segments[None, :]) & (key_segments[None, :] != 0)
    if causal:
        queries = query_start + lax.broadcasted_iota(jnp.int32, allowed.shape, 0)
        keys = key_start + lax.broadcasted_iota(jnp.int32, allowed.shape, 1)
        allowed &= queries >= keys
    return allowed


def _forward_kernel(q_ref, k_ref, v_ref, qs_ref, ks_ref, o_ref, log_ref, *, dot, factor: float, causal: bool) -> None:
    start = pl.program_id(2) * BLOCK
    q, query_segments = q_ref[...], qs_ref[...]

    def add(block, carry):
        attended, top, total = carry
        here = pl.ds(block * BLOCK, BLOCK)
        k, v = k_ref[here, :], v_ref[here, :]
        scores = dot(q, k, trans_b=True) * (factor * LOG2_E)
        allowed = _allowed(query_segments, ks_ref[here], start, block * BLOCK, causal)
        scores = jnp.where(allowed, scores, -jnp.inf)
        new_top = jnp.maximum(top, scores.max(1))
        finite = jnp.where(new_top == -jnp.inf, 0.0, new_top)  # no key counts so far
        exponentials = jnp.exp2(scores - finite[:, None])
        shrink = jnp.exp2(top - finite)
        attended = attended * shrink[:, None] + dot(exponentials.astype(v.dtype), v)
        return attended, new_top, total * shrink + exponentials.sum(1)

    blocks = k_ref.shape[0] // BLOCK
    last = jnp.minimum(pl.program_id(2) + 1, blocks) if causal else blocks
    zeros = jnp.zeros(BLOCK, jnp.float32)
    begin = jnp.zeros(q.shape, jnp.float32), zeros - jnp.inf, zeros
    attended, top, total = lax.fori_loop(0, last, add, begin)
    positive = jnp.where(total == 0.0, 1.0, total)
    o_ref[...] = (attended / positive[:, None]).astype(o_ref.dtype)
    # exp2(score - log2 of the total) is a weight. Where no key counts, the weights are masked in the backward pass.
    log_ref[...] = jnp.where(total == 0.0, 0.0, top + jnp.log2(positive))


def _weights(dot, q, k, query_segments, key_segments, log_total, query_start, key_start, factor, causal):
    scores = dot(q, k, trans_b=True) * (factor * LOG2_E)
    allowed = _allowed(query_segments, key_segments, query_start, key_start, causal)
    return jnp.where(allowed, jnp.exp2(scores - log_total[:, None]), 0.0)


def _query_kernel(
    q_ref, k_ref, v_ref, qs_ref, ks_ref, g_ref, log_ref, along_ref, dq_ref, *, dot, factor: float, causal: bool
) -> None:
    start = pl.program_id(2) * BLOCK
    q, g, query_segments, log_total, along = q_ref[...], g_ref[...], qs_ref[...], log_ref[...], along_ref[...]

    def add(block, dq):
        here = pl.ds(block * BLOCK, BLOCK)
        k, v = k_ref[here, :], v_ref[here, :]
        weights = _weights(dot, q, k, query_segments, ks_ref[here], log_total, start, block * BLOCK, factor, causal)
        dscores = weights * (dot(g, v, trans_b=True) - along[:, None]) * factor
        return dq + dot(dscores.astype(k.dtype), k)

    blocks = k_ref.shape[0] // BLOCK
    last = jnp.minimum(pl.program_id(2) + 1, blocks) if causal else blocks
    dq_ref[...] = lax.fori_loop(0, last, add, jnp.zeros(q.shape, jnp.float32)).astype(dq_ref.dtype)


def _key_kernel(
    q_ref, k_ref, v_ref, qs_ref, ks_ref, g_ref, log_ref, along_ref, dk_ref, dv_ref, *dq_ref, dot, factor, causal: bool
) -> None:
    """With `dq_ref`, all queries are one block, and its gradient is written, too."""
    start = pl.program_id(2) * BLOCK
    k, v, key_segments = k_ref[...], v_ref[...], ks_ref[...]

    def gradients(block):
        here = pl.ds(block * BLOCK, BLOCK)
        q, g = q_ref[here, :], g_ref[here, :]
        weights = _weights(dot, q, k, qs_ref[here], key_segments, log_ref[here], block * BLOCK, start, factor, causal)
        dscores = weights * (dot(g, v, trans_b=True) - along_ref[here][:, None]) * factor
        dscores = dscores.astype(q.dtype)
        return dot(dscores, q, trans_a=True), dot(weights.astype(g.dtype), g, trans_a=True), dscores

    if dq_ref:
        dk, dv, dscores = gradients(0)
        dq_ref[0][...] = dot(dscores, k).astype(dq_ref[0].dtype)
    else:

        def add(block, sums):
            dk, dv, _ = gradients(block)
            return sums[0] + dk, sums[1] + dv

        first = pl.program_id(2) if causal else 0
        zeros = jnp.zeros(k.shape, jnp.float32)
        dk, dv = lax.fori_loop(first, q_ref.shape[0] // BLOCK, add, (zeros, zeros))
    dk_ref[...], dv_ref[...] = dk.astype(dk_ref.dtype), dv.astype(dv_ref.dtype)


def _call(kernel: Any, tiles: _Tiles, blocks: int, in_specs: list, out_specs: list, out_shape: list, **options: Any):
    interpret, name = options.pop("interpret"), options.pop("name")
    return pl.pallas_call(
        partial(kernel, **options),
        grid=(tiles.batch, tiles.heads, blocks),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name=name,
    )


def _forward(query, key, value, query_segments, key_segments, is_causal, interpret, precision):
    q, k, v = (_padded(x) for x in (query, key, value))
    segments = _padded(query_segments, False), _padded(key_segments, False)
    tiles = _Tiles(q, k)
    result, log_total = _call(
        _forward_kernel,
        tiles,
        tiles.queries // BLOCK,
        [
            tiles.spec(tiles.queries, False),
            tiles.spec(tiles.keys, True),
            tiles.spec(tiles.keys, True),
            tiles.segments(tiles.queries, False),
            tiles.segments(tiles.keys, True),
        ],
        [tiles.spec(tiles.queries, False), tiles.numbers(tiles.queries, False)],
        [
            jax.ShapeDtypeStruct(q.shape, value.dtype),
            jax.ShapeDtypeStruct((tiles.batch, tiles.heads, tiles.queries), jnp.float32),
        ],
        dot=partial(triton.dot, precision=product_precision(precision, query, key, value)),
        factor=1 / math.sqrt(query.shape[-1]),
        causal=is_causal,
        interpret=interpret,
        name="attention_forward",
    )(q, k, v, *segments)
    result = result[:, : query.shape[1], :, : query.shape[-1]]
    result, log_total = checkpoint_name((result, log_total), ATTENDED)
    return result, (query, key, value, query_segments, key_segments, result, log_total)


def _backward(is_causal, interpret, precision, saved, gradient):
    query, key, value, query_segments, key_segments, result, log_total = saved
    exact = product_precision(precision, query, key, value)
    along = jnp.einsum("bqhe,bqhe->bhq", gradient, result, precision=exact, preferred_element_type=jnp.float32)
    along = jnp.pad(along, [(0, 0), (0, 0), (0, log_total.shape[-1] - along.shape[-1])])
    q, k, v, g = (_padded(x) for x in (query, key, value, gradient))
    segments = _padded(query_segments, False), _padded(key_segments, False)
    tiles = _Tiles(q, k)
    arguments = q, k, v, *segments, g, log_total, along
    factor, dot = 1 / math.sqrt(query.shape[-1]), partial(triton.dot, precision=exact)
    options = {"dot": dot, "factor": factor, "causal": is_causal, "interpret": interpret}

    def specs(whole_queries: bool, whole_keys: bool) -> list[pl.BlockSpec]:
        queries, keys = (tiles.queries, whole_queries), (tiles.keys, whole_keys)
        of_queries, of_keys = tiles.spec(*queries), tiles.spec(*keys)
        segments = tiles.segments(*queries), tiles.segments(*keys)
        return [of_queries, of_keys, of_keys, *segments, of_queries, *[tiles.numbers(*queries)] * 2]

    dquery_shape, *dkey_shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v))
    dkey_specs = [tiles.spec(tiles.keys, False)] * 2
    one_block = tiles.queries == BLOCK and tiles.keys == BLOCK
    dk, dv, *dq = _call(
        _key_kernel,
        tiles,
        tiles.keys // BLOCK,
        specs(True, False),
        dkey_specs + [tiles.spec(tiles.queries, False)] * one_block,
        dkey_shapes + [dquery_shape] * one_block,
        name="attention_backward",
        **options,
    )(*arguments)
    if not one_block:
        dq = _call(
            _query_kernel,
            tiles,
            tiles.queries // BLOCK,
            specs(False, True),
            [tiles.spec(tiles.queries, False)],
            [dquery_shape],
            name="attention_backward_query",
            **options,
        )(*arguments)
    gradients = (d[:, : x.shape[1], :, : x.shape[-1]] for d, x in zip((*dq, dk, dv), (query, key, value), strict=True))
    return (*gradients, None, None)


flash_attention.defvjp(_forward, _backward)

"""Attention over long rows in plain JAX, which never stores a [Q, K] matrix.

Source: Milakov and Gimelshein 2018 (online softmax); Rabe and Staats 2021; Dao et al. 2022 (the backward pass).
"""

import math
from functools import partial

import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float, Int

from transformer.ops.backward import ATTENDED, custom_vjp
from transformer.ops.precision import MatmulPrecision, product_precision

BLOCK = 256  # keys whose scores exist at the same time


@partial(custom_vjp, nondiff_argnums=(5, 6, 7))
def blockwise_attention(
    query: Float[Array, "B Q H E"],
    key: Float[Array, "B K H E"],
    value: Float[Array, "B K H E"],
    query_segments: Int[Array, "B Q"],
    key_segments: Int[Array, "B K"],
    is_causal: bool,
    block: int = BLOCK,
    precision: MatmulPrecision = "float32",
) -> Float[Array, "B Q H E"]:
    """Section 3.2.1, Eq. 1 for each head, one block of keys at a time.

    A query attends to the keys of its own segment, as `ops.segment_mask` says, and with `is_causal` to none after its
    own position. The forward pass keeps the result and one number per query and head for the backward pass, which
    computes the attention weights again.

    Args:
        query: Q.
        key: K.
        value: V.
        query_segments: Number of the segment of each query, from 1; 0 is padding, which attends to nothing.
        key_segments: The same for the keys.
        is_causal: Whether a query attends to no later key.
        block: Number of keys whose scores exist at the same time.
        precision: Precision of the products of float32 numbers.

    Returns:
        The attended values, in the type of `value`; zeros where a query attends to nothing.
    """
    return _forward(query, key, value, query_segments, key_segments, is_causal, block, precision)[0]


def _product(precision: MatmulPrecision, subscripts: str, a: Array, b: Array) -> Array:
    exact = product_precision(precision, a, b)
    return jnp.einsum(subscripts, a, b, precision=exact, preferred_element_type=jnp.float32)


def _scores(product, query, key, query_segments: Array, key_segments: Array, start: Array | int, causal: bool):
    """Scores [B, H, Q, k] of one block of keys in float32, and which of them count."""
    scores = product("bqhe,bkhe->bhqk", query, key)
    allowed = (query_segments[:, :, None] == key_segments[:, None, :]) & (key_segments[:, None, :] != 0)
    if causal:
        positions = jnp.arange(query.shape[1])[:, None], start + jnp.arange(key.shape[1])[None, :]
        allowed &= positions[0] >= positions[1]
    return scores / math.sqrt(query.shape[-1]), allowed[:, None]


def _blocks(x: Array, block: int) -> Array:
    """[B, K, ...] -> [blocks, B, block, ...], the last block filled up with zeros."""
    missing = -x.shape[1] % block
    x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 1, 0)


def _forward(query, key, value, query_segments, key_segments, is_causal, block, precision):
    product = partial(_product, precision)
    batch, length, heads, size = query.shape
    block = min(block, key.shape[1])
    blocks = _blocks(key, block), _blocks(value, block), _blocks(key_segments, block)
    starts = block * jnp.arange(blocks[0].shape[0])

    def add(carry, part):
        attended, top, total = carry
        k, v, segments, start = part
        scores, allowed = _scores(product, query, k, query_segments, segments, start, is_causal)
        new_top = jnp.maximum(top, jnp.where(allowed, scores, -jnp.inf).max(-1))
        finite = jnp.where(jnp.isneginf(new_top), 0.0, new_top)  # no key counts so far
        exponentials = jnp.where(allowed, jnp.exp(scores - finite[..., None]), 0.0)
        shrink = jnp.exp(top - finite)
        mixed = product("bhqk,bkhe->bhqe", exponentials.astype(v.dtype), v)
        return (attended * shrink[..., None] + mixed, new_top, total * shrink + exponentials.sum(-1)), None

    zeros = jnp.zeros((batch, heads, length), jnp.float32)
    start = jnp.zeros((batch, heads, length, size), jnp.float32), zeros - jnp.inf, zeros
    (attended, top, total), _ = lax.scan(add, start, (*blocks, starts))
    attended = attended / jnp.where(total == 0.0, 1.0, total)[..., None]
    # exp(score - log_total) is a weight; where no key counts, every weight is 0 whatever this number is.
    log_total = jnp.where(total == 0.0, 0.0, top + jnp.log(jnp.where(total == 0.0, 1.0, total)))
    result, log_total = checkpoint_name((jnp.moveaxis(attended, 1, 2).astype(value.dtype), log_total), ATTENDED)
    return result, (query, key, value, query_segments, key_segments, result, log_total)


def _backward(is_causal, block, precision, saved, g):
    product = partial(_product, precision)
    query, key, value, query_segments, key_segments, result, log_total = saved
    block = min(block, key.shape[1])
    blocks = _blocks(key, block), _blocks(value, block), _blocks(key_segments, block)
    starts = block * jnp.arange(blocks[0].shape[0])
    along = product("bqhe,bqhe->bhq", g, result)
    factor = 1 / math.sqrt(query.shape[-1])

    def add(dquery, part):
        k, v, segments, start = part
        scores, allowed = _scores(product, query, k, query_segments, segments, start, is_causal)
        weights = jnp.where(allowed, jnp.exp(scores - log_total[..., None]), 0.0)
        dvalue = product("bhqk,bqhe->bkhe", weights.astype(g.dtype), g)
        dweights = product("bqhe,bkhe->bhqk", g, v)
        dscores = (weights * (dweights - along[..., None]) * factor).astype(query.dtype)
        dkey = product("bhqk,bqhe->bkhe", dscores, query)
        dquery += product("bhqk,bkhe->bqhe", dscores, k)
        return dquery, (dkey.astype(key.dtype), dvalue.astype(value.dtype))

    dquery, parts = lax.scan(add, jnp.zeros(query.shape, jnp.float32), (*blocks, starts))
    dkey, dvalue = (jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, : key.shape[1]] for x in parts)
    return dquery.astype(query.dtype), dkey, dvalue, None, None


blockwise_attention.defvjp(_forward, _backward)

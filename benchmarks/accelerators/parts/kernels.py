"""Attention alone, in bfloat16: its time at the shapes of two models, and its error at a small shape."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from accelerators.parts.model import batch_shape, packed_batch, require_accelerator
from accelerators.record import Record, median_seconds
from transformer.ops.attention import scaled_dot_product_attention
from transformer.ops.attention_gpu import flash_attention
from transformer.ops.blockwise import blockwise_attention
from transformer.ops.implementation import ACCELERATOR
from transformer.ops.masks import AttentionMask

HEADS, SIZE = 8, 64  # of base
LONG = 16_384  # tokens of one long row
Segments = Array | None  # None: a row is one segment
Attention = Callable[[Array, Array, Array, Segments, Segments, bool], Array]


class Case(NamedTuple):
    """One shape of attention."""

    rows: int
    length: int
    segments: Segments
    is_causal: bool


def plain(query: Array, key: Array, value: Array, of_queries: Segments, of_keys: Segments, is_causal: bool) -> Array:
    return _with_mask(ACCELERATOR.attention, query, key, value, of_queries, of_keys, is_causal)


def reference(
    query: Array, key: Array, value: Array, of_queries: Segments, of_keys: Segments, is_causal: bool
) -> Array:
    return _with_mask(scaled_dot_product_attention, query, key, value, of_queries, of_keys, is_causal)


def _with_mask(
    attention: Any, query: Array, key: Array, value: Array, of_queries: Segments, of_keys: Segments, is_causal: bool
) -> Array:
    """With heads moved to a batch axis and back, as the model does."""
    heads_first = (jnp.moveaxis(x, -2, -3) for x in (query, key, value))
    mask = AttentionMask(of_queries, of_keys, is_causal).dense(query.shape[1])
    return jnp.moveaxis(attention(*heads_first, mask)[0], -3, -2)


def cudnn(query: Array, key: Array, value: Array, of_queries: Segments, of_keys: Segments, is_causal: bool) -> Array:
    """cuDNN's, in which the mask of segments becomes an array that is added to the scores."""
    mask = None if of_queries is None else AttentionMask(of_queries, of_keys, False).dense(query.shape[1])
    return jax.nn.dot_product_attention(
        query, key, value, mask=mask, is_causal=is_causal, implementation="cudnn" if _on_gpu() else "xla"
    )


def _segmented(attention: Any, **options: Any) -> Attention:
    """An attention that needs segments, with one segment in each row by default."""

    def attend(
        query: Array, key: Array, value: Array, of_queries: Segments, of_keys: Segments, is_causal: bool
    ) -> Array:
        ones = jnp.ones(query.shape[:2], jnp.int32)
        segments = (ones if x is None else x for x in (of_queries, of_keys))
        return attention(query, key, value, *segments, is_causal, *options.values())

    return attend


def _on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def run(variant: str, record: Record) -> None:
    require_accelerator(record)
    attention: Attention = {
        "plain": plain,
        "blockwise": _segmented(blockwise_attention),
        "cudnn": cudnn,
        "flash": _segmented(flash_attention, interpret=not _on_gpu()),
    }[variant]
    for dtype in ("float32", "bfloat16"):
        record.attempt(f"{variant} error {dtype}", lambda dtype=dtype: errors(attention, dtype))
    for name, case in cases(record).items():
        for backward in (False, True):
            measured = f"{variant} {name}{' and gradient' if backward else ''}"
            record.attempt(measured, lambda case=case, backward=backward: times(attention, case, backward, record))


def cases(record: Record) -> dict[str, Case]:
    rows, length = batch_shape(record)
    packed = jnp.asarray(packed_batch(300, rows, length).target_segments)
    long = 64 if record.tiny else LONG
    return {
        "packed rows, causal": Case(rows, length, packed, True),
        "full rows": Case(rows, length, None, False),
        "long row, causal": Case(1, long, None, True),
    }


def times(attention: Attention, case: Case, backward: bool, record: Record) -> dict[str, float]:
    """The time of one call, from a compiled loop of several in which each needs the result of the one before."""
    shape = case.rows, case.length, HEADS, SIZE
    query, key, value, gradient = (jax.random.normal(jax.random.key(n), shape, jnp.bfloat16) for n in range(4))
    calls = 2 if record.tiny else 20 if case.rows > 1 else 5

    def attend(query: Array, key: Array, value: Array) -> Array:
        return attention(query, key, value, case.segments, case.segments, case.is_causal)

    def once(_: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        if backward:
            return jax.vjp(attend, carry[0], key, value)[1](gradient)
        return (attend(carry[0], key, value),)

    loop = jax.jit(lambda *carry: lax.fori_loop(0, calls, once, carry))
    carry = (query, key, value) if backward else (query,)
    seconds = median_seconds(lambda: loop(*carry), jax.block_until_ready, calls=2) / calls
    products = (7 if backward else 2) * (0.5 if case.is_causal else 1)  # backward, one is the scores again
    flops = 2 * products * case.rows * HEADS * case.length**2 * SIZE
    return {"milliseconds": 1e3 * seconds, "teraflops": 1e-12 * flops / seconds}


def errors(attention: Attention, dtype: str) -> dict[str, float]:
    """The largest errors of causal attention and of its gradients, relative to the largest element.

    The reference is Eq. 1 in float32 without TF32, given the same rounded numbers.
    """
    length = 72
    segments = jnp.asarray(np.array([[1] * 20 + [2] * 31 + [3] * 17 + [0] * 4, [1] * 40 + [2] * 26 + [0] * 6]))
    tokens = (segments != 0)[..., None, None]
    shape = *segments.shape, 2, SIZE
    query, key, value, gradient = (jax.random.normal(jax.random.key(n), shape).astype(dtype) for n in range(4))
    found: dict[str, float] = {"length": length}
    gradient = jnp.where(tokens, gradient, 0).astype(dtype)  # of padding, cuDNN's result is not zero

    @partial(jax.jit, static_argnums=0)
    def both(attention: Attention, gradient: Array, *arrays: Array) -> tuple[Array, ...]:
        result, pull = jax.vjp(lambda q, k, v: attention(q, k, v, segments, segments, True), *arrays)
        return result, *pull(gradient)

    actual = both(attention, gradient, query, key, value)
    with jax.default_matmul_precision("highest"):
        exact = both(reference, *(x.astype(jnp.float32) for x in (gradient, query, key, value)))
    for name, one, other in zip(("result", "dquery", "dkey", "dvalue"), actual, exact, strict=True):
        error = jnp.where(tokens, jnp.abs(one.astype(jnp.float32) - other), 0).max() / jnp.abs(other).max()
        found[name] = float(error)
    return found

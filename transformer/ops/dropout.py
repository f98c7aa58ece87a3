"""Dropout (section 5.4) whose mask is a hash of where an element stands, so it need not be stored nor communicated."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt32

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio, made odd: its multiples spread consecutive indices over all the words


class DropoutKey(NamedTuple):
    """What decides the dropout masks of one step; `dropout_key` makes it."""

    stream: UInt32[Array, ""]
    row: Int[Array, " B"]


def dropout_key(seed: int, step: Int[Array, ""] | int, row: Int[Array, " B"]) -> DropoutKey:
    """The key of all dropout masks of one step.

    Args:
        seed: Seed of the run; seeds count modulo 2^32.
        step: Number of the optimizer update.
        row: Number of each row within the whole batch of the step, over all devices and accumulation steps.

    Returns:
        The key, which may be traced: neither step nor row is compiled in.
    """
    return DropoutKey(_hash(jnp.uint32(seed % 2**32), step), row)


def dropout(x: Float[Array, "B *axes"], rate: float, key: DropoutKey, site: int) -> Float[Array, "B *axes"]:
    """Sets elements to zero with probability `rate` and scales the others up (section 5.4; Srivastava et al. 2014).

    y = x * keep / (1 - rate),  keep = hash(seed, step, site, row, position, ..., feature) >= rate * 2^32

    The mask of an element depends on its own coordinates alone: not on the padded length, the order of the rows, nor
    the devices and accumulation steps that they are spread over. The backward pass computes it again from the key.

    Args:
        x: Rows first, features last, any axes between them.
        rate: Probability of a zero, in [0, 1), exact to 2^-32; 0 returns `x` as it is.
        key: Seed, step and row numbers; one row number for each row of `x`.
        site: Number of the place in the model, so that no two places share a mask.

    Returns:
        The masked array, in the type of `x`.
    """
    if rate == 0:
        return x
    return _dropout(x, rate, _hash(key.stream, site), key.row)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dropout(x: Array, rate: float, stream: Array, row: Array) -> Array:
    word = _hash(stream, row)
    for length in x.shape[1:]:
        word = _hash(word[..., None], jnp.arange(length, dtype=jnp.uint32))
    keep = word >= jnp.uint32(round(rate * 2**32))
    # In float32, because 1 / (1 - rate) rounded to bfloat16 would bias the mean by up to 0.4 %.
    return jnp.where(keep, x.astype(jnp.float32) * (1 / (1 - rate)), 0).astype(x.dtype)


def _dropout_forward(x: Array, rate: float, stream: Array, row: Array) -> tuple[Array, tuple[Array, Array]]:
    return _dropout(x, rate, stream, row), (stream, row)


def _dropout_backward(rate: float, key: tuple[Array, Array], gradient: Array) -> tuple[Array, None, None]:
    return _dropout(gradient, rate, *key), None, None


_dropout.defvjp(_dropout_forward, _dropout_backward)


def _hash(word: Array, index: Array | int) -> Array:
    """A new word from a word and an index: one step along the golden sequence, then the finalizer `lowbias32`.

    Its shifts and factors are those that Chris Wellons found by search ("Hash Function Prospector", 2018).
    """
    word = word + jnp.uint32(_GOLDEN) * jnp.asarray(index).astype(jnp.uint32)
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)

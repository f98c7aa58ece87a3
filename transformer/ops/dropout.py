"""Dropout (section 5.4) whose mask is a hash of an element's coordinates, so it need not be stored or communicated."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt32

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio, made odd: its multiples spread consecutive indices over all the words
_LAYERS = np.uint32(2**32 - 1)  # no step or site has this index, so no key of a layer is one of theirs


class DropoutKey(NamedTuple):
    """What decides the dropout masks of one step; `dropout_key` makes it."""

    stream: UInt32[Array, ""]
    row: Int[Array, " B"]


def dropout_key(seed: int, step: Int[Array, ""] | int, row: Int[Array | np.ndarray, " B"]) -> DropoutKey:
    """The key of all dropout masks of one step.

    Args:
        seed: Seed of the run; seeds count modulo 2^32.
        step: Number of the optimizer update.
        row: Number of each row within the whole batch of the step, over all devices and accumulation steps.

    Returns:
        The key, which may be traced: neither step nor row is compiled in.
    """
    return DropoutKey(_hash(jnp.uint32(seed % 2**32), step), jnp.asarray(row))


def dropout(x: Float[Array, "B *axes"], rate: float, key: DropoutKey, site: int) -> Float[Array, "B *axes"]:
    """Sets elements to zero with probability `rate` and scales the others up (section 5.4; Srivastava et al. 2014).

    y = x * keep / (1 - rate),  keep = hash(seed, step, site, row, position, ..., feature) >= rate * 2^32

    The mask of an element depends on its own coordinates alone: not on the padded length, the order of the rows, nor
    the devices and accumulation steps that they are spread over.

    Args:
        x: Rows first, features last, any axes between them.
        rate: Probability of a zero, in [0, 1), exact to 2^-32; 0 returns `x` as it is.
        key: Seed, step and row numbers; one row number for each row of `x`.
        site: Number of this use of dropout in the model, so that no two uses share a mask.

    Returns:
        The masked array, in the type of `x`.
    """
    if rate == 0:
        return x
    return scale_kept(x, rate, keep_mask(x.shape, rate, key, site))


def fold_in(key: DropoutKey, index: Int[Array, ""] | int) -> DropoutKey:
    """The key of one layer of a stack: layers that share a module path must not share their masks.

    Args:
        key: The key of the step.
        index: Number of the layer, which may be traced.
    """
    return key._replace(stream=_hash(_hash(key.stream, _LAYERS), index))


def keep_mask(shape: tuple[int, ...], rate: float, key: DropoutKey, site: int) -> Bool[Array, "B *axes"]:
    """True where `dropout` keeps an element of an array of this shape."""
    word = _hash(_hash(key.stream, site), key.row)
    for length in shape[1:]:
        word = _hash(word[..., None], jnp.arange(length, dtype=jnp.uint32))
    return word >= jnp.uint32(round(rate * 2**32))


def scale_kept(x: Array, rate: float, keep: Array) -> Array:
    """x * keep / (1 - rate), in the type of `x`."""
    # In float32, because 1 / (1 - rate) rounded to bfloat16 would bias the mean by up to 0.4 %.
    return jnp.where(keep, x.astype(jnp.float32) * (1 / (1 - rate)), 0).astype(x.dtype)


def _hash(word: Array, index: Array | np.uint32 | int) -> Array:
    """A new word from a word and an index: one step along the golden sequence, then the finalizer `lowbias32`.

    Its shifts and factors are those that Chris Wellons found by search ("Hash Function Prospector", 2018).
    """
    word = word + jnp.uint32(_GOLDEN) * jnp.asarray(index).astype(jnp.uint32)
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)

"""Dropout (section 5.4) with masks computed by a hash.

The mask of an element is a hash of its coordinates, so masks need neither storage nor communication.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt32

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio, made odd: its multiples spread consecutive indices over all 32-bit words
_LAYERS = np.uint32(2**32 - 1)  # an index that no step or site has, so the key of a layer equals none of theirs


class DropoutKey(NamedTuple):
    """Key of all dropout masks of one step, made by `dropout_key`.

    Attributes:
        stream: Hash of the seed and the step, and of the layer after `fold_in`.
        row: Number of each row within the batch of the step.
        starts: Index of the first element along each further axis, if another device has those before it; 0 along
            axes that are left out.
    """

    stream: UInt32[Array, ""]
    row: Int[Array, " B"]
    starts: tuple[Int[Array, ""] | int, ...] = ()


def dropout_key(seed: int, step: Int[Array, ""] | int, row: Int[Array | np.ndarray, " B"]) -> DropoutKey:
    """Makes the key of all dropout masks of one step.

    Args:
        seed: Seed of the run, taken modulo 2^32.
        step: Number of the optimizer update. It may be traced.
        row: Number of each row within the batch of the step, over all devices and micro-batches. It may be traced.

    Returns:
        The key to pass to `dropout`.
    """
    return DropoutKey(_hash(jnp.uint32(seed % 2**32), step), jnp.asarray(row))


def dropout(
    x: Float[Array, "B *axes"], rate: float | Float[Array, ""], key: DropoutKey, site: int
) -> Float[Array, "B *axes"]:
    """Zeroes elements with probability `rate` and scales up the others.

    Residual dropout of section 5.4, after Srivastava et al. 2014.

        y = x * keep / (1 - rate)
        keep = hash(seed, step, site, row, position, ..., feature) >= rate * 2^32

    The mask of an element depends only on the element's own coordinates. Padding to another length, reordering the
    rows, or splitting the batch differently over devices and micro-batches leaves it unchanged.

    Args:
        x: Activations, with rows as the first axis and features as the last.
        rate: Probability of zeroing an element, in [0, 1). A Python number is exact to 2^-32, and 0 returns `x`
            itself. An array, which may be traced, is taken in float32 and must be within the range: it is not checked.
        key: Key of the step, with one row number for each row of `x`.
        site: Number of this use of dropout in the model. Uses with different numbers have independent masks.

    Returns:
        The masked and scaled activations, in the dtype of `x`.
    """
    if isinstance(rate, Array):
        rate = rate.astype(jnp.float32)
    elif rate == 0:
        return x
    return scale_kept(x, rate, keep_mask(x.shape, rate, key, site))


def fold_in(key: DropoutKey, index: Int[Array, ""] | int) -> DropoutKey:
    """Derives the key of one layer from the key of a step.

    The layers of a stack share one module path and therefore one `site`. A key of its own gives each layer its own
    masks.

    Args:
        key: Key of the step.
        index: Number of the layer. It may be traced.

    Returns:
        The key of the layer, with the same rows.
    """
    return key._replace(stream=_hash(_hash(key.stream, _LAYERS), index))


def keep_mask(
    shape: tuple[int, ...], rate: float | Float[Array, ""], key: DropoutKey, site: int
) -> Bool[Array, "B *axes"]:
    """Returns True where `dropout` keeps an element of an array of this shape."""
    word = _hash(_hash(key.stream, site), key.row)
    for axis, length in enumerate(shape[1:]):
        index = jnp.arange(length, dtype=jnp.uint32)
        if axis < len(key.starts):
            index += jnp.asarray(key.starts[axis]).astype(jnp.uint32)
        word = _hash(word[..., None], index)
    scaled = rate * 2.0**32
    return word >= (scaled.astype(jnp.uint32) if isinstance(scaled, Array) else jnp.uint32(round(scaled)))


def scale_kept(x: Array, rate: float | Array, keep: Array) -> Array:
    """Computes x * keep / (1 - rate) in the dtype of `x`."""
    # In float32, because 1 / (1 - rate) rounded to bfloat16 would bias the mean by up to 0.4 %.
    return jnp.where(keep, x.astype(jnp.float32) * (1 / (1 - rate)), 0).astype(x.dtype)


def _hash(word: Array, index: Array | np.uint32 | int) -> Array:
    """Hashes a word and an index into a new word.

    It takes one step along the golden sequence and applies the finalizer `lowbias32`, whose shifts and factors Chris
    Wellons found by search ("Hash Function Prospector", 2018).
    """
    word = word + jnp.uint32(_GOLDEN) * jnp.asarray(index).astype(jnp.uint32)
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)

"""Sinusoidal positions (section 3.5), the two half-split variants that pass for them, and where sentences begin."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int


def sinusoidal_positions(
    length: int, d_model: int, layout: Literal["interleaved", "halved", "halved_t2t"]
) -> Float[Array, "T D"]:
    """Position encodings of fixed sinusoids (section 3.5).

    interleaved:  PE[pos, 2i] = sin(pos / 10000^(2i/d)),  PE[pos, 2i + 1] = cos(pos / 10000^(2i/d))
    halved:       PE[pos, i]  = sin(pos / 10000^(2i/d)),  PE[pos, d/2 + i] = cos(pos / 10000^(2i/d))
    halved_t2t:   as halved, with the exponent i / (d/2 - 1)

    A decoder that stands at one (traced) position indexes this table, which is a constant of the compiled program.

    Deviates: the paper is `interleaved`. `halved` is the same features in another order, and what Hugging Face's
        MarianMT computes. `halved_t2t` has other wavelengths, the last exactly 10000 * 2 pi, and is what tensor2tensor
        and the C++ Marian compute.

    Args:
        length: Number of positions T, counted from 0.
        d_model: Features D a position; even, and at least 4 for `halved_t2t`.
        layout: Order and wavelengths of the sinusoids.

    Returns:
        The table, in float32 (the angles are exact: computed in float64 when the program is traced).
    """
    half = d_model // 2
    exponent = np.arange(half) / (half - 1 if layout == "halved_t2t" else half)
    angle = np.arange(length)[:, None] / 10000.0**exponent
    sine, cosine = np.sin(angle), np.cos(angle)
    if layout == "interleaved":
        table = np.stack([sine, cosine], axis=-1).reshape(length, d_model)
    else:
        table = np.concatenate([sine, cosine], axis=-1)
    return jnp.asarray(table, jnp.float32)


def segment_positions(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Positions of tokens whose sentences are packed into rows: each sentence counts from 0.

    position[b, t] = t - min {t' : segments[b, t'] .. segments[b, t] are all equal}

    Args:
        segments: Number of the sentence that each token belongs to; neighbouring sentences differ.
    """
    place = jnp.arange(segments.shape[1])
    begins = jnp.diff(segments, axis=1, prepend=segments[:, :1]) != 0
    return place - lax.cummax(jnp.where(begins, place, 0), axis=1)

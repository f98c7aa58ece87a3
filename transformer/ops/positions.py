"""Position encodings (section 3.5), rotary positions, positions in packed rows."""

from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from transformer.errors import require, require_choice

Layout = Literal["interleaved", "halved", "halved_t2t"]


def sinusoidal_positions(length: int, d_model: int, layout: Layout = "interleaved") -> Float[Array, "T D"]:
    """Makes the table of sinusoidal position encodings (section 3.5).

        interleaved:  PE[pos, 2i] = sin(pos / 10000^(2i/d)),  PE[pos, 2i + 1] = cos(pos / 10000^(2i/d))
        halved:       PE[pos, i]  = sin(pos / 10000^(2i/d)),  PE[pos, d/2 + i] = cos(pos / 10000^(2i/d))
        halved_t2t:   as halved, with the exponent i / (d/2 - 1)

    The table is a constant of the compiled program. A decoder at one (traced) position indexes it.

    Deviates:
        The paper's layout is `interleaved`. `halved` has the same features in another order, as Hugging Face's
        MarianMT computes them. `halved_t2t` has other wavelengths, the last exactly 10000 * 2 pi, as tensor2tensor
        and the C++ Marian compute them.

    Args:
        length: Number of positions T, counted from 0.
        d_model: Number of features D per position; even, and at least 4 for `halved_t2t`.
        layout: Order and wavelengths of the sinusoids.

    Returns:
        The table in float32. The angles are computed in float64 while the program is traced.

    Raises:
        InputError: There is no such layout, or `d_model` is odd or too small for the layout.
    """
    require_choice("The layout of positions", layout, get_args(Layout))
    smallest = 4 if layout == "halved_t2t" else 2
    require(
        d_model % 2 == 0 and d_model >= smallest,
        f"Sinusoidal positions need an even d_model of at least {smallest}, but it is {d_model}.",
    )
    half = d_model // 2
    exponent = np.arange(half) / (half - 1 if layout == "halved_t2t" else half)
    angle = np.arange(length)[:, None] / 10000.0**exponent
    sine, cosine = np.sin(angle), np.cos(angle)
    if layout == "interleaved":
        table = np.stack([sine, cosine], axis=-1).reshape(length, d_model)
    else:
        table = np.concatenate([sine, cosine], axis=-1)
    return jnp.asarray(table, jnp.float32)


def rotate(x: Float[Array, "*batch T E"], sinusoids: Float[Array, "... #T E"]) -> Float[Array, "*batch T E"]:
    """Rotates queries or keys by their positions, as in RoFormer.

        y[2i]     = cos(a_i) x[2i] - sin(a_i) x[2i + 1]
        y[2i + 1] = sin(a_i) x[2i] + cos(a_i) x[2i + 1],  with a_i = pos / 10000^(2i/E)

    The dot product of a rotated query and a rotated key depends only on the difference of their positions. The source
    is Su et al. 2021, arXiv 2104.09864, Eq. 34.

    Deviates:
        The paper adds sinusoids of these angles to the embeddings instead.

    Args:
        x: Queries or keys of each head; E is even.
        sinusoids: Row of `sinusoidal_positions(length, E, "interleaved")` for each position, in float32, to be
            broadcast to the shape of `x`.

    Returns:
        The rotated features, computed in float32 and returned in the dtype of `x`.
    """
    sine, cosine = sinusoids[..., 0::2], sinusoids[..., 1::2]
    even, odd = x[..., 0::2], x[..., 1::2]
    rotated = jnp.stack([cosine * even - sine * odd, sine * even + cosine * odd], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def segment_positions(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Counts the position of each token of a packed row from the start of its segment.

        position[b, t] = t - min {t' : segments[b, t'] .. segments[b, t] are all equal}

    Args:
        segments: Number of the segment that each token belongs to. Neighbouring segments differ in number.

    Returns:
        The position of each token within its segment, from 0.
    """
    index = jnp.arange(segments.shape[1])
    begins = jnp.diff(segments, axis=1, prepend=segments[:, :1]) != 0
    return index - lax.cummax(jnp.where(begins, index, 0), axis=1)

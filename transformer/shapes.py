"""The axis legend and the types of the arrays that travel between rooms.

    B  batch (rows)            D  d_model, the width of the residual stream
    S  source length           H  heads
    T  target length           E  size of one head (usually D / H)
    Q  query length            F  d_ff, the width of the feed-forward layer
    K  key length, and in      V  vocabulary
       decoding the number     N  tokens, flattened
       of hypotheses

Einsums use the same letters: `"bqhe,bkhe->bhqk"`. In a mask, True means "may attend" or "is a token".
"""

from typing import Any, NamedTuple

from jaxtyping import Bool, Int

Array = Any  # jax.Array, a tracer of one, or numpy.ndarray: the maths does not mind
Params = Any  # a pytree of float32 arrays, as `Transformer.init(...)["params"]` returns it


class Batch(NamedTuple):
    """Sentence pairs, padded to one shape. A row of padding only (all masks False) fills an incomplete batch.

    `target_input` is the target shifted right behind the start id; `target_output` is the target with the end id
    behind it; both have the same mask. `row` numbers the pair within the whole batch of the step, over all devices
    and accumulation steps: dropout draws its masks from it, so they do not depend on how the batch is split.

    Packed rows hold several pairs side by side; the segments number them from 1 in each row, 0 is padding. None: a row
    is a pair.
    """

    source: Int[Array, "*split B S"]
    source_mask: Bool[Array, "*split B S"]
    target_input: Int[Array, "*split B T"]
    target_output: Int[Array, "*split B T"]
    target_mask: Bool[Array, "*split B T"]
    row: Int[Array, "*split B"]
    source_segments: Int[Array, "*split B S"] | None = None
    target_segments: Int[Array, "*split B T"] | None = None

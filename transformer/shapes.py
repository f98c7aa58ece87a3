"""The axis legend and the types of the arrays that travel between rooms.

    B  batch (rows)            D  d_model, the width of the residual stream
    S  source length           H  heads
    T  target length           E  size of one head (usually D / H)
    Q  query length            F  d_ff, the width of the feed-forward layer
    K  key length, and in      V  vocabulary
       decoding the number     N  tokens, flattened
       of hypotheses

Einsums use the same letters: `"bqhe,bkhe->bhqk"`. In a mask, True means "may attend" or "is a token".

One word, one meaning, in code, messages and documentation:

    token        a unit of the vocabulary (byte-level BPE)
    position     an index along a sequence, from 0
    row          an index along B: one sentence pair, or several when rows are packed
    segment      one of the sentence pairs in a packed row
    slot         an index along the K hypotheses of a beam
    chunk        a part of an input line that is too long for the model
    shard        the part of an array that one device holds
    micro-batch  the part of a batch whose gradients are computed at once, when gradients are accumulated
    step         one update of the parameters
    resume       continue a run from its last checkpoint
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

if TYPE_CHECKING:
    import jax

    Array = jax.Array | np.ndarray
else:
    Array = Any  # the rooms that make batches on the host do not import jax

Params = Mapping[str, Any]
"""Arrays by name, nested, in float32: what `Transformer.apply` takes first. The parameters are its part `params`; what
else a model keeps (the running statistics of batch norm) stands beside it. `run.params`, `TrainState.params` and what
`parameters.draw` returns have this one shape."""

DEVICES = "data"
"""The name of the axis of devices, over which the rows of a batch are spread in a mapped program."""


class Batch(NamedTuple):
    """Sentence pairs, padded to one shape. A row of padding only (all masks False) fills an incomplete batch.

    `target_input` is the target shifted right, with the start id first; `target_output` is the target followed by the
    end id; both have the same mask. `row` numbers the pair within the whole batch of the step, over all devices and
    accumulation steps: dropout draws its masks from it, so they do not depend on how the batch is split.

    A packed row holds several pairs; the segments number them from 1 in each row, and 0 is padding. None: a row is a
    pair.
    """

    source: Int[Array, "*split B S"]
    source_mask: Bool[Array, "*split B S"]
    target_input: Int[Array, "*split B T"]
    target_output: Int[Array, "*split B T"]
    target_mask: Bool[Array, "*split B T"]
    row: Int[Array, "*split B"]
    source_segments: Int[Array, "*split B S"] | None = None
    target_segments: Int[Array, "*split B T"] | None = None

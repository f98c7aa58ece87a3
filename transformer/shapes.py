"""Axis letters, terms of the project, and types of arrays that modules exchange.

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
    step         one batch, and the update of the parameters by it, unless it is skipped
    resume       continue a run from its last checkpoint
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

if TYPE_CHECKING:
    import jax

    Array = jax.Array | np.ndarray
    JaxArray = jax.Array
else:
    Array = JaxArray = Any  # modules that make batches on the host must not import jax

Params = Mapping[str, Any]
"""Nested dict of float32 arrays, the first argument of `Transformer.apply`.

The key `params` holds the parameters. Other keys hold further variables, such as the running statistics of batch norm.
`run.params`, `TrainState.params` and the result of `parameters.draw` all have this layout."""

DEVICES, FSDP, TENSOR = "data", "fsdp", "tensor"
"""Names of the mapped axes of devices. Rows of a batch are split over `data` and `fsdp`, parameters over `fsdp` and
`tensor`."""


class Batch(NamedTuple):
    """Sentence pairs, padded to one shape.

    Rows of padding only (all masks False) fill an incomplete batch. `*split` stands for further leading axes, such as
    devices and micro-batches.

    Attributes:
        source: Token ids of the source, followed by the end id.
        source_mask: True for tokens, False for padding.
        target_input: Token ids of the target shifted right, beginning with the start id.
        target_output: Token ids of the target, followed by the end id.
        target_mask: True for tokens of `target_input` and `target_output`, False for padding.
        row: Number of each row within the batch of the step, over all devices and micro-batches. Dropout masks
            depend on it, and so not on how the batch is split.
        source_segments: Number of the segment that each source token belongs to, from 1 in each row; 0 is padding.
            None if each row is one sentence pair.
        target_segments: The same for the tokens of the target.
    """

    source: Int[Array, "*split B S"]
    source_mask: Bool[Array, "*split B S"]
    target_input: Int[Array, "*split B T"]
    target_output: Int[Array, "*split B T"]
    target_mask: Bool[Array, "*split B T"]
    row: Int[Array, "*split B"]
    source_segments: Int[Array, "*split B S"] | None = None
    target_segments: Int[Array, "*split B T"] | None = None


class Side(NamedTuple):
    """Token sequences that the encoder or the decoder reads.

    Attributes:
        tokens: Token ids. A source ends with the end id; a target begins with the start id.
        mask: True for tokens, False for padding; None if there is no padding. No target position attends to a later
            one, so padding at the end of a target matters to batch norm only.
        segments: Number of the segment that each token belongs to in a packed row, from 1; 0 is padding. None if each
            row is one sentence.
    """

    tokens: Int[JaxArray, "B T"]
    mask: Bool[JaxArray, "B T"] | None = None
    segments: Int[JaxArray, "B T"] | None = None

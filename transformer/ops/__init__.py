"""Pure functions for the equations of "Attention Is All You Need".

The paper is arXiv 1706.03762. Each function takes and returns arrays, owns no parameters, and names its
section or equation. All of them work under `jit`, `vmap`, `grad` and `pmap`, in float32 and bfloat16.
`transformer.shapes` explains the axis letters.
"""

from transformer.ops.attention import merge_heads, scaled_dot_product_attention, split_heads
from transformer.ops.dropout import DropoutKey, dropout, dropout_key, fold_in
from transformer.ops.feed_forward import feed_forward
from transformer.ops.linear import linear, output_logits
from transformer.ops.loss import cross_entropy
from transformer.ops.masks import causal_mask, padding_mask, segment_mask
from transformer.ops.normalization import batch_norm, layer_norm, rms_norm
from transformer.ops.positions import rotate, segment_positions, sinusoidal_positions

__all__ = [
    "DropoutKey",
    "batch_norm",
    "causal_mask",
    "cross_entropy",
    "dropout",
    "dropout_key",
    "feed_forward",
    "fold_in",
    "layer_norm",
    "linear",
    "merge_heads",
    "output_logits",
    "padding_mask",
    "rms_norm",
    "rotate",
    "scaled_dot_product_attention",
    "segment_mask",
    "segment_positions",
    "sinusoidal_positions",
    "split_heads",
]

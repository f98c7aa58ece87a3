"""The layers that are measured, each a function from [B, n, d] to [B, n, d].

Attention is this package's; recurrent layers and the convolution are flax's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from transformer.analysis.complexity.formulas import Size
from transformer.analysis.complexity.restricted import restricted_attention
from transformer.attention import MultiHeadAttention
from transformer.config import ModelConfig
from transformer.layers import Build
from transformer.shapes import Params

ATTENTION, PROJECTED, RESTRICTED = "attention", "attention with projections", "restricted attention"
GRU, LSTM, CONVOLUTION = "GRU", "LSTM", "convolution"
LAYERS = (ATTENTION, PROJECTED, RESTRICTED, GRU, LSTM, CONVOLUTION)
ROW_OF = {
    ATTENTION: "self-attention",
    RESTRICTED: "self-attention, restricted",
    GRU: "recurrent",
    LSTM: "recurrent",
    CONVOLUTION: "convolutional",
}
"""The row of Table 1 for each layer. The table counts attention without its projections."""


@dataclass(frozen=True)
class Step:
    """One position of a recurrent layer."""

    apply: Callable[[Params, Any, Array], tuple[Any, Array]]
    """(params, state, x [B, d]) -> (next state, y [B, d])."""
    state: Any
    """The state before the first position."""


@dataclass(frozen=True)
class Layer:
    """A layer as a pure function, with arguments to call it with."""

    apply: Callable[[Params, Array], Array]
    params: Params
    x: Array
    """The input [B, n, d]."""
    step: Step | None = None
    """One position of the layer, if it is recurrent."""


def make_layers(size: Size, batch: int = 1, dtype: str = "float32") -> dict[str, Layer]:
    """The layers to measure, by name, with random parameters and a random input.

    Args:
        size: n, d, k and r.
        batch: number of sequences.
        dtype: dtype of activations; parameters are float32.
    """
    x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, size.n, size.d)), dtype)

    # One head, because the number of heads does not change the number of operations. Learned positions, which are not
    # used, allow an odd d.
    build = Build.choose(ModelConfig(d_model=size.d, num_heads=1, positions="learned"))

    def attend(_: Params, x: Array) -> Array:
        return build.ops.attention(x, x, x)[0]

    def attend_nearby(_: Params, x: Array) -> Array:
        return restricted_attention(x, x, x, size.r // 2)

    projected = MultiHeadAttention(build)
    everywhere = jnp.ones((1, 1, 1, 1), bool)

    def project_and_attend(params: Params, x: Array) -> Array:
        attended: Any = projected.apply(params, x, x, everywhere)
        return attended[0]

    return {
        ATTENTION: Layer(attend, {}, x),
        PROJECTED: Layer(project_and_attend, _random(projected, x, x, everywhere), x),
        RESTRICTED: Layer(attend_nearby, {}, x),
        GRU: _recurrent(nn.GRUCell(size.d, dtype=jnp.dtype(dtype)), x),
        LSTM: _recurrent(nn.LSTMCell(size.d, dtype=jnp.dtype(dtype)), x),
        CONVOLUTION: convolution(size.k, 1, x),
    }


def convolution(kernel: int, dilation: int, x: Array) -> Layer:
    """A causal convolution over each position and every `dilation`-th before it.

    Args:
        kernel: kernel width, in positions.
        dilation: distance between the kernel's positions.
        x: the input [B, n, d].
    """
    module = nn.Conv(x.shape[-1], (kernel,), kernel_dilation=dilation, padding="CAUSAL", dtype=x.dtype)
    return Layer(module.apply, _random(module, x), x)  # pyright: ignore[reportArgumentType]


def _recurrent(cell: nn.RNNCellBase, x: Array) -> Layer:
    state = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
    params = _random(cell, state, x[:, 0])
    recurrence: Any = nn.RNN(cell)

    def apply(params: Params, x: Array) -> Array:
        return recurrence.apply({"params": {"cell": params["params"]}}, x)

    return Layer(apply, params, x, Step(cell.apply, state))  # pyright: ignore[reportArgumentType]


def _random(module: nn.Module, *arguments: Any) -> Params:
    """Random parameters with the shapes and scale of initialized ones.

    Calling the module's own initialization would compile it for each size.
    """
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(partial(module.init, jax.random.key(0)), *arguments)
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, leaf.shape[-1] ** -0.5, leaf.shape), leaf.dtype), shapes
    )

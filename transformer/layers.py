"""The sub-layers of Figure 1.

They are linen modules that own parameters, and every formula is a call into `ops`. `dropout` is an argument of
each call: a `DropoutKey` in training, None in evaluation.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
from jax import Array
from jax.nn.initializers import Initializer

from transformer.batch_norm import BatchNorm
from transformer.config import ModelConfig
from transformer.ops.dropout import DropoutKey
from transformer.ops.feed_forward import feed_forward
from transformer.ops.implementation import Implementation, select
from transformer.ops.normalization import rms_norm
from transformer.ops.positions import rotate

# Keys and values of one attention, each [B, H, K, E]. `stack.Caches` holds them for all layers of a stack.
KeysAndValues = tuple[Array, Array]

glorot = nn.initializers.xavier_uniform()
# Query, key and value projections are initialized as parts of one matrix [D, 3 D], with Glorot's variance
# 2 / (D + 3 D). This is half the variance of a matrix [D, D]. With twice as much, a small post-norm model did not learn
# to attend to the source (docs/experiments.md).
glorot_of_three = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


class Build(NamedTuple):
    """Settings that every layer of a model shares.

    Attributes:
        config: Architecture of the model.
        ops: Implementation of the equations.
    """

    config: ModelConfig
    ops: Implementation

    @classmethod
    def choose(cls, config: ModelConfig, backend: str | None = None) -> "Build":
        """Makes the settings, with the implementation that the config names.

        Args:
            config: Architecture of the model.
            backend: Backend that the program is compiled for; None is JAX's default backend.
        """
        backend = jax.default_backend() if backend is None else backend
        return cls(config, select(config.implementation, backend))


def _site(path: tuple[str, ...]) -> int:
    """Computes a number for a module of the model from its path.

    The number is 31 bits of the path's CRC, and so the same in every process.
    """
    return zlib.crc32("/".join(path).encode()) >> 1


class Dropout(nn.Module):
    """Dropout at one site of the model, which the module's path names.

    Attributes:
        build: Settings of the model.
        rate: Probability of zeroing an element, in [0, 1).
    """

    build: Build
    rate: float

    def __call__(self, x: Array, key: DropoutKey | None) -> Array:
        return x if key is None else self.build.ops.dropout(x, self.rate, key, _site(self.path))

    def bind_key(self, key: DropoutKey | None) -> Callable[[Array], Array] | None:
        """Returns this site's dropout as a function, or None if nothing is dropped."""
        return None if key is None or not self.rate else partial(self, key=key)


class Norm(nn.Module):
    """Normalization that treats each token separately, with learned parameters [D].

    Attributes:
        normalize: A function of `ops`, called with the activations, the parameters in this order, and epsilon.
        parameters: Their names. `scale` starts at 1 and `bias` at 0, here and in `parameters.draw`.
        epsilon: `model.norm_epsilon`.
    """

    normalize: Callable[..., Array]
    parameters: tuple[Literal["scale", "bias"], ...]
    epsilon: float

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, training: bool) -> Array:
        start = {"scale": nn.initializers.ones, "bias": nn.initializers.zeros}
        learned = (self.param(name, start[name], x.shape[-1:]) for name in self.parameters)
        return self.normalize(x, *learned, self.epsilon)


NORMS: dict[str, Callable[[Build], Norm | BatchNorm]] = {
    "layer": lambda build: Norm(build.ops.layer_norm, ("scale", "bias"), build.config.norm_epsilon),
    "rms": lambda build: Norm(rms_norm, ("scale",), build.config.norm_epsilon),
    "batch": lambda build: BatchNorm(build.config.norm_epsilon, build.config.batch_norm_momentum),
}
"""The choices of `model.norm`. Each is called with activations, the mask of tokens, and whether it trains."""


def make_norm(build: Build) -> Norm | BatchNorm:
    """Makes the normalization that `model.norm` names.

    The module is called with the activations [B, T, D], the mask of tokens [B, T] or None, and whether the model is
    training.
    """
    return NORMS[build.config.norm](build)


class Linear(nn.Module):
    """Linear projection to the model's width, x W + b.

    Attributes:
        build: Settings of the model.
        kernel_init: Initializer of W.
    """

    build: Build
    kernel_init: Initializer = glorot

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = self.build.config.d_model
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], width))
        has_bias = self.build.config.attention_bias
        bias = self.param("bias", nn.initializers.zeros, (width,)) if has_bias else None
        return self.build.ops.linear(x, kernel, bias)


class MultiHeadAttention(nn.Module):
    """Multi-head attention (section 3.2.2).

        MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O

    One projection computes the queries of all heads, and so for keys and values. `rotation` holds the sinusoids of the
    positions, [T, E] or [B, T, E], by which queries and keys are rotated; None rotates nothing.

    Attributes:
        build: Settings of the model.
    """

    build: Build

    def setup(self) -> None:
        self.query = Linear(self.build, glorot_of_three)
        self.key = Linear(self.build, glorot_of_three)
        self.value = Linear(self.build, glorot_of_three)
        self.output = Linear(self.build)
        self.dropout = Dropout(self.build, self.build.config.attention_dropout)

    def keys_and_values(self, x: Array, rotation: Array | None = None) -> KeysAndValues:
        """Projects activations [B, T, D] to keys and values, each [B, H, T, E]."""
        return self._split(self.key(x), rotation), self._split(self.value(x))

    def attend(
        self,
        x: Array,
        keys: Array,
        values: Array,
        mask: Array | None,
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
        rotation: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """Attends to keys and values that have already been projected.

        Args:
            x: Activations [B, T, D] that the queries are projected from.
            keys: Projected keys [B, H, K, E].
            values: Projected values [B, H, K, E].
            mask: True where a query may attend to a key, broadcast to [B, H, T, K]; None for everywhere.
            dropout: Key of the dropout on the attention weights; None in evaluation.
            return_weights: Whether to return the attention weights.
            rotation: Sinusoids of the queries' positions.

        Returns:
            The output [B, T, D], and the attention weights [B, H, T, K] in float32 or None.
        """
        heads, weights = self.build.ops.attention(
            self._split(self.query(x), rotation),
            keys,
            values,
            mask,
            dropout=self.dropout.bind_key(dropout),
            return_weights=return_weights,
        )
        return self.output(self.build.ops.merge_heads(heads)), weights

    def __call__(
        self,
        x: Array,
        memory: Array,
        mask: Array | None,
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
        rotation: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """Attends from `x` [B, T, D] to `memory` [B, K, D].

        `attend` describes the other arguments and the result. `rotation` applies to queries and keys alike.
        """
        return self.attend(x, *self.keys_and_values(memory, rotation), mask, dropout, return_weights, rotation)

    def _split(self, x: Array, rotation: Array | None = None) -> Array:
        heads = self.build.ops.split_heads(x, self.build.config.num_heads)
        return heads if rotation is None else rotate(heads, rotation[..., None, :, :])


class FeedForward(nn.Module):
    """Position-wise feed-forward network (section 3.3, Eq. 2).

        FFN(x) = activation(x W1 + b1) W2 + b2

    Attributes:
        build: Settings of the model.
    """

    build: Build

    def setup(self) -> None:
        config, zeros = self.build.config, nn.initializers.zeros
        self.kernel_in = self.param("kernel_in", glorot, (config.d_model, config.d_ff))
        self.bias_in = self.param("bias_in", zeros, (config.d_ff,))
        self.kernel_out = self.param("kernel_out", glorot, (config.d_ff, config.d_model))
        self.bias_out = self.param("bias_out", zeros, (config.d_model,))
        self.dropout = Dropout(self.build, config.activation_dropout)

    def __call__(self, x: Array, dropout: DropoutKey | None = None) -> Array:
        return feed_forward(
            x,
            self.kernel_in,
            self.bias_in,
            self.kernel_out,
            self.bias_out,
            self.build.config.activation,
            dropout=self.dropout.bind_key(dropout),
            linear=self.build.ops.linear,
            activations=self.build.ops.activations,
        )


class AddAndNorm(nn.Module):
    """Residual connection and normalization around a sub-layer (section 3.1).

        post-norm:  LayerNorm(x + Sublayer(x))
        pre-norm:   x + Sublayer(LayerNorm(x))

    Deviates:
        The paper is post-norm, and always with layer normalization.

    Attributes:
        build: Settings of the model.
    """

    build: Build

    def setup(self) -> None:
        self.norm = make_norm(self.build)
        self.dropout = Dropout(self.build, self.build.config.dropout)

    def __call__(
        self,
        x: Array,
        sublayer: Callable[[Array], tuple[Array, Any]],
        mask: Array | None = None,
        dropout: DropoutKey | None = None,
    ) -> tuple[Array, Any]:
        """Applies a sub-layer with its residual connection.

        Args:
            x: Activations [B, T, D].
            sublayer: Function of the activations. It returns its output, and something that is passed on unchanged:
                attention weights or a cache.
            mask: True for tokens, [B, T]; only batch norm reads it. None if every position is a token.
            dropout: Key of the dropout on the sub-layer's output; None in evaluation.

        Returns:
            The activations [B, T, D], and what the sub-layer passed on.
        """
        training = dropout is not None
        if self.build.config.norm_position == "pre":
            y, extra = sublayer(self.norm(x, mask, training))
            return x + self.dropout(y, dropout), extra
        y, extra = sublayer(x)
        return self.norm(x + self.dropout(y, dropout), mask, training), extra

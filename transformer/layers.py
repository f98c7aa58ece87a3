"""The sub-layers of Figure 1: linen shells that own parameters. Every formula is a call into `ops`.

`dropout` is an argument of each call: a `DropoutKey` when training, None when evaluating.
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

# Keys and values [B, H, K, E] of one attention; those of a stack's layers have a leading axis, or are a tuple of them
KeysAndValues = tuple[Array, Array]

glorot = nn.initializers.xavier_uniform()
# Queries, keys and values are projected side by side, as by one matrix [D, 3 D]: Glorot's variance 2 / (D + 3 D), half
# of what each would have by itself. With twice as much, a small post-norm model did not learn to attend to the source
# (docs/experiments.md).
glorot_of_three = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


class Build(NamedTuple):
    """What every layer of a model is built with.

    config: the architecture.
    ops: the implementation of the equations.
    """

    config: ModelConfig
    ops: Implementation

    @classmethod
    def choose(cls, config: ModelConfig, backend: str | None = None) -> "Build":
        """With the implementation that the config names, for a backend; None is jax's default backend."""
        backend = jax.default_backend() if backend is None else backend
        return cls(config, select(config.implementation, backend))


def _site(path: tuple[str, ...]) -> int:
    """A number for a module of the model, the same in every process: 31 bits of its path's CRC."""
    return zlib.crc32("/".join(path).encode()) >> 1


class Dropout(nn.Module):
    """Dropout of one site of the model; the module's path names the site."""

    build: Build
    rate: float

    def __call__(self, x: Array, key: DropoutKey | None) -> Array:
        return x if key is None else self.build.ops.dropout(x, self.rate, key, _site(self.path))

    def bind_key(self, key: DropoutKey | None) -> Callable[[Array], Array] | None:
        """This site's dropout as a function of the activations alone; None where there is none."""
        return None if key is None or not self.rate else partial(self, key=key)


class Norm(nn.Module):
    """A normalization of each token, with learned parameters [D].

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
    """The normalization that `model.norm` names."""
    return NORMS[build.config.norm](build)


class Linear(nn.Module):
    """The parameters of x W + b."""

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
    """MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O (section 3.2.2); one projection serves all heads.

    With `rotation`, the sinusoids of the positions [T, E] or [B, T, E], queries and keys are rotated by them.
    """

    build: Build

    def setup(self) -> None:
        self.query = Linear(self.build, glorot_of_three)
        self.key = Linear(self.build, glorot_of_three)
        self.value = Linear(self.build, glorot_of_three)
        self.output = Linear(self.build)
        self.dropout = Dropout(self.build, self.build.config.attention_dropout)

    def keys_and_values(self, x: Array, rotation: Array | None = None) -> KeysAndValues:
        """[B, T, D] -> keys and values, each [B, H, T, E]."""
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
        return self.attend(x, *self.keys_and_values(memory, rotation), mask, dropout, return_weights, rotation)

    def _split(self, x: Array, rotation: Array | None = None) -> Array:
        heads = self.build.ops.split_heads(x, self.build.config.num_heads)
        return heads if rotation is None else rotate(heads, rotation[..., None, :, :])


class FeedForward(nn.Module):
    """FFN(x) = activation(x W_1 + b_1) W_2 + b_2 (section 3.3, Eq. 2)."""

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
        )


class AddAndNorm(nn.Module):
    """LayerNorm(x + Sublayer(x)) (section 3.1), or with pre-norm x + Sublayer(LayerNorm(x))."""

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
        """The sub-layer also returns something that is passed on as it is: attention weights, or a cache."""
        training = dropout is not None
        if self.build.config.norm_position == "pre":
            y, extra = sublayer(self.norm(x, mask, training))
            return x + self.dropout(y, dropout), extra
        y, extra = sublayer(x)
        return self.norm(x + self.dropout(y, dropout), mask, training), extra

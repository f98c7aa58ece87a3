"""The layers of Figure 1: linen shells that own parameters. Every formula is a call into `ops`.

`dropout` is an argument of each call: a `DropoutKey` when training, None when evaluating.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import Initializer

from transformer.config import ModelConfig
from transformer.ops.dropout import DropoutKey
from transformer.ops.feed_forward import feed_forward
from transformer.ops.implementation import Implementation, select
from transformer.ops.normalization import batch_norm, rms_norm

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
    axis_name: name of the mapped device axis over which batch norm sums its statistics, if any.
    """

    config: ModelConfig
    ops: Implementation
    axis_name: str | None

    @classmethod
    def choose(cls, config: ModelConfig, axis_name: str | None = None, backend: str | None = None) -> "Build":
        """With the implementation that the config names, for a backend; None is jax's default backend."""
        backend = jax.default_backend() if backend is None else backend
        return cls(config, select(config.implementation, backend), axis_name)


class Masks(NamedTuple):
    """Who may attend to what in a stack.

    tokens: [B, T], True for tokens; only batch norm asks. None: everywhere.
    own: the mask of self-attention, broadcast to [B, H, T, T].
    memory: the mask of the attention to the encoder, broadcast to [B, H, T, S]; None in the encoder.
    """

    tokens: Array | None
    own: Array
    memory: Array | None = None


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
    """Layer, RMS or batch normalization, as configured."""

    build: Build

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, training: bool) -> Array:
        config, width = self.build.config, x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        if config.norm == "rms":
            return rms_norm(x, scale, config.norm_epsilon)
        bias = self.param("bias", nn.initializers.zeros, width)
        if config.norm == "layer":
            return self.build.ops.layer_norm(x, scale, bias, config.norm_epsilon)
        mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        variance = self.variable("batch_stats", "variance", jnp.ones, width)
        y, new_mean, new_variance = batch_norm(
            x,
            scale,
            bias,
            jnp.ones(x.shape[:2], bool) if mask is None else mask,
            mean.value,
            variance.value,
            epsilon=config.norm_epsilon,
            momentum=config.batch_norm_momentum,
            train=training,
            axis_name=self.build.axis_name,
        )
        if training and not self.is_initializing():
            mean.value, variance.value = new_mean, new_variance
        return y


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
    """MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O (section 3.2.2); one projection serves all heads."""

    build: Build

    def setup(self) -> None:
        self.query = Linear(self.build, glorot_of_three)
        self.key = Linear(self.build, glorot_of_three)
        self.value = Linear(self.build, glorot_of_three)
        self.output = Linear(self.build)
        self.dropout = Dropout(self.build, self.build.config.attention_dropout)

    def keys_and_values(self, x: Array) -> KeysAndValues:
        """[B, T, D] -> keys and values, each [B, H, T, E]."""
        return self._split(self.key(x)), self._split(self.value(x))

    def attend(
        self,
        x: Array,
        keys: Array,
        values: Array,
        mask: Array | None,
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
    ) -> tuple[Array, Array | None]:
        heads, weights = self.build.ops.attention(
            self._split(self.query(x)),
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
    ) -> tuple[Array, Array | None]:
        return self.attend(x, *self.keys_and_values(memory), mask, dropout, return_weights)

    def _split(self, x: Array) -> Array:
        return self.build.ops.split_heads(x, self.build.config.num_heads)


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
        self.norm = Norm(self.build)
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


class Layer(nn.Module):
    """Self-attention, in the decoder attention to the encoder, and feed-forward, each in Add & Norm (Figure 1)."""

    build: Build
    is_decoder: bool

    def setup(self) -> None:
        self.self_attention = MultiHeadAttention(self.build)
        self.self_attention_norm = AddAndNorm(self.build)
        if self.is_decoder:
            self.cross_attention = MultiHeadAttention(self.build)
            self.cross_attention_norm = AddAndNorm(self.build)
        self.feed_forward = FeedForward(self.build)
        self.feed_forward_norm = AddAndNorm(self.build)

    def __call__(
        self,
        x: Array,
        memory: Array | None,
        masks: Masks,
        dropout: DropoutKey | None,
        return_weights: bool,
    ) -> tuple[Array, tuple[Array | None, Array | None]]:
        """[B, T, D] -> [B, T, D], and the weights of both kinds of attention, None unless asked for."""
        tokens, cross_weights = masks.tokens, None
        x, self_weights = self.self_attention_norm(
            x, lambda y: self.self_attention(y, y, masks.own, dropout, return_weights), tokens, dropout
        )
        if self.is_decoder:
            assert memory is not None
            x, cross_weights = self.cross_attention_norm(
                x, lambda y: self.cross_attention(y, memory, masks.memory, dropout, return_weights), tokens, dropout
            )
        x, _ = self.feed_forward_norm(x, lambda y: (self.feed_forward(y, dropout), None), tokens, dropout)
        return x, (self_weights, cross_weights)

    def memory_keys_and_values(self, memory: Array) -> KeysAndValues:
        """What the attention to the encoder needs of the encoder's output [B, S, D]."""
        return self.cross_attention.keys_and_values(memory)

    def step(
        self, x: Array, cache: KeysAndValues, index: tuple[Array | int, ...], memory: KeysAndValues, masks: Masks
    ) -> tuple[Array, KeysAndValues]:
        """One token of each of K hypotheses, [B, K, D].

        Args:
            x: the activations.
            cache: keys and values of the tokens so far, for every position those of all K hypotheses side by side.
            index: where in the cache the new keys and values go. Its length is the number of the cache's axes: 4 for
                [B, H, P K, E], or 5 with a leading axis of layers, of which the first index names this one.
            memory: keys and values of the encoder's output, of this layer.
            masks: of self-attention over the cache and of the attention to the encoder.
        """

        def attend_to_past(y: Array) -> tuple[Array, KeysAndValues]:
            layers = len(index) - 4
            keys, values = (
                lax.dynamic_update_slice(old, new.astype(old.dtype)[(None,) * layers], index)
                for old, new in zip(cache, self.self_attention.keys_and_values(y), strict=True)
            )
            own_keys, own_values = (
                lax.dynamic_index_in_dim(leaf, index[0], keepdims=False) if layers else leaf for leaf in (keys, values)
            )
            return self.self_attention.attend(y, own_keys, own_values, masks.own)[0], (keys, values)

        x, cache = self.self_attention_norm(x, attend_to_past)
        x, _ = self.cross_attention_norm(x, lambda y: self.cross_attention.attend(y, *memory, masks.memory))
        x, _ = self.feed_forward_norm(x, lambda y: (self.feed_forward(y), None))
        return x, cache

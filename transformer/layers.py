"""The layers of Figure 1: linen shells that own parameters. Every formula is a call into `ops`.

`dropout` is an argument of each call: a `DropoutKey` when training, None when evaluating.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import Initializer

from transformer.config import ModelConfig
from transformer.ops.attention import merge_heads, scaled_dot_product_attention, split_heads
from transformer.ops.dropout import DropoutKey, dropout
from transformer.ops.feed_forward import feed_forward
from transformer.ops.linear import linear
from transformer.ops.normalization import batch_norm, layer_norm, rms_norm

# A layer's keys and values so far, each [B, H, P K, E]: for every position those of all K hypotheses, side by side
Cache = tuple[Array, Array]

glorot = nn.initializers.xavier_uniform()
# Queries, keys and values are projected side by side, as by one matrix [D, 3 D]: Glorot's variance 2 / (D + 3 D), half
# of what each would have by itself. With twice as much, a small post-norm model did not learn to look at the source
# (docs/experiments.md).
glorot_of_three = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


def _site(path: tuple[str, ...]) -> int:
    """A number for a place in the model, the same in every process: 31 bits of its path's CRC."""
    return zlib.crc32("/".join(path).encode()) >> 1


class Dropout(nn.Module):
    """Dropout of one site of the model; the module's path names the site."""

    rate: float

    def __call__(self, x: Array, key: DropoutKey | None) -> Array:
        return x if key is None else dropout(x, self.rate, key, _site(self.path))

    def bind_key(self, key: DropoutKey | None) -> Callable[[Array], Array] | None:
        """This site's dropout as a function of the activations alone; None where there is none."""
        return None if key is None or not self.rate else partial(self, key=key)


class Norm(nn.Module):
    """Layer, RMS or batch normalization, as configured."""

    config: ModelConfig
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, training: bool) -> Array:
        config, width = self.config, x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        if config.norm == "rms":
            return rms_norm(x, scale, config.norm_epsilon)
        bias = self.param("bias", nn.initializers.zeros, width)
        if config.norm == "layer":
            return layer_norm(x, scale, bias, config.norm_epsilon)
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
            axis_name=self.axis_name,
        )
        if training and not self.is_initializing():
            mean.value, variance.value = new_mean, new_variance
        return y


class Linear(nn.Module):
    """The parameters of x W + b."""

    features: int
    use_bias: bool
    kernel_init: Initializer = glorot

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        return linear(x, kernel, bias)


class MultiHeadAttention(nn.Module):
    """MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O (section 3.2.2); one projection serves all heads."""

    config: ModelConfig

    def setup(self) -> None:
        config = self.config
        self.query = Linear(config.d_model, config.attention_bias, glorot_of_three)
        self.key = Linear(config.d_model, config.attention_bias, glorot_of_three)
        self.value = Linear(config.d_model, config.attention_bias, glorot_of_three)
        self.output = Linear(config.d_model, config.attention_bias)
        self.dropout = Dropout(config.attention_dropout)

    def keys_and_values(self, x: Array) -> tuple[Array, Array]:
        """[B, T, D] -> keys and values, each [B, H, T, E]."""
        return split_heads(self.key(x), self.config.num_heads), split_heads(self.value(x), self.config.num_heads)

    def attend(
        self,
        x: Array,
        keys: Array,
        values: Array,
        mask: Array,
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
    ) -> tuple[Array, Array | None]:
        queries = split_heads(self.query(x), self.config.num_heads)
        heads, weights = scaled_dot_product_attention(
            queries, keys, values, mask, dropout=self.dropout.bind_key(dropout), return_weights=return_weights
        )
        return self.output(merge_heads(heads)), weights

    def __call__(
        self, x: Array, memory: Array, mask: Array, dropout: DropoutKey | None = None, return_weights: bool = False
    ) -> tuple[Array, Array | None]:
        return self.attend(x, *self.keys_and_values(memory), mask, dropout, return_weights)


class FeedForward(nn.Module):
    """FFN(x) = activation(x W_1 + b_1) W_2 + b_2 (section 3.3, Eq. 2)."""

    config: ModelConfig

    def setup(self) -> None:
        config, zeros = self.config, nn.initializers.zeros
        self.kernel_in = self.param("kernel_in", glorot, (config.d_model, config.d_ff))
        self.bias_in = self.param("bias_in", zeros, (config.d_ff,))
        self.kernel_out = self.param("kernel_out", glorot, (config.d_ff, config.d_model))
        self.bias_out = self.param("bias_out", zeros, (config.d_model,))
        self.dropout = Dropout(config.activation_dropout)

    def __call__(self, x: Array, dropout: DropoutKey | None = None) -> Array:
        return feed_forward(
            x,
            self.kernel_in,
            self.bias_in,
            self.kernel_out,
            self.bias_out,
            self.config.activation,
            dropout=self.dropout.bind_key(dropout),
        )


class AddAndNorm(nn.Module):
    """LayerNorm(x + Sublayer(x)) (section 3.1), or with pre-norm x + Sublayer(LayerNorm(x))."""

    config: ModelConfig
    axis_name: str | None

    def setup(self) -> None:
        self.norm = Norm(self.config, self.axis_name)
        self.dropout = Dropout(self.config.dropout)

    def __call__(
        self,
        x: Array,
        sublayer: Callable[[Array], tuple[Array, Any]],
        mask: Array | None = None,
        dropout: DropoutKey | None = None,
    ) -> tuple[Array, Any]:
        """The sub-layer also returns something that is passed on as it is: attention weights, or a cache."""
        training = dropout is not None
        if self.config.norm_position == "pre":
            y, extra = sublayer(self.norm(x, mask, training))
            return x + self.dropout(y, dropout), extra
        y, extra = sublayer(x)
        return self.norm(x + self.dropout(y, dropout), mask, training), extra


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each in Add & Norm (Figure 1, left)."""

    config: ModelConfig
    axis_name: str | None

    def setup(self) -> None:
        self.attention = MultiHeadAttention(self.config)
        self.feed_forward = FeedForward(self.config)
        self.attention_norm = AddAndNorm(self.config, self.axis_name)
        self.feed_forward_norm = AddAndNorm(self.config, self.axis_name)

    def __call__(
        self, x: Array, mask: Array, self_mask: Array, dropout: DropoutKey | None, return_weights: bool
    ) -> tuple[Array, Array | None]:
        x, weights = self.attention_norm(
            x, lambda y: self.attention(y, y, self_mask, dropout, return_weights), mask, dropout
        )
        x, _ = self.feed_forward_norm(x, lambda y: (self.feed_forward(y, dropout), None), mask, dropout)
        return x, weights


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the encoder and feed-forward, each in Add & Norm (Figure 1, right)."""

    config: ModelConfig
    axis_name: str | None

    def setup(self) -> None:
        self.self_attention = MultiHeadAttention(self.config)
        self.cross_attention = MultiHeadAttention(self.config)
        self.feed_forward = FeedForward(self.config)
        self.self_attention_norm = AddAndNorm(self.config, self.axis_name)
        self.cross_attention_norm = AddAndNorm(self.config, self.axis_name)
        self.feed_forward_norm = AddAndNorm(self.config, self.axis_name)

    def __call__(
        self,
        x: Array,
        memory: Array,
        mask: Array | None,
        self_mask: Array,
        memory_mask: Array,
        dropout: DropoutKey | None,
        return_weights: bool,
    ) -> tuple[Array, tuple[Array | None, Array | None]]:
        x, self_weights = self.self_attention_norm(
            x, lambda y: self.self_attention(y, y, self_mask, dropout, return_weights), mask, dropout
        )
        x, cross_weights = self.cross_attention_norm(
            x, lambda y: self.cross_attention(y, memory, memory_mask, dropout, return_weights), mask, dropout
        )
        x, _ = self.feed_forward_norm(x, lambda y: (self.feed_forward(y, dropout), None), mask, dropout)
        return x, (self_weights, cross_weights)

    def step(
        self,
        x: Array,
        position: Array,
        self_mask: Array,
        cache: Cache,
        memory: tuple[Array, Array],
        memory_mask: Array,
    ) -> tuple[Array, Cache]:
        """One token of each hypothesis, [B, K, D]; the cache holds the keys and values before it."""

        def attend_to_past(y: Array) -> tuple[Array, Cache]:
            newest, place = self.self_attention.keys_and_values(y), position * y.shape[1]
            keys, values = (
                lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), place, axis=2)
                for old, new in zip(cache, newest, strict=True)
            )
            attended, _ = self.self_attention.attend(y, keys, values, self_mask)
            return attended, (keys, values)

        x, cache = self.self_attention_norm(x, attend_to_past)
        x, _ = self.cross_attention_norm(x, lambda y: self.cross_attention.attend(y, *memory, memory_mask))
        x, _ = self.feed_forward_norm(x, lambda y: (self.feed_forward(y), None))
        return x, cache

"""The sub-layers of Figure 1, except attention.

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

from transformer.axes import ALONE, Axes
from transformer.batch_norm import BatchNorm
from transformer.config import ModelConfig
from transformer.ops.dropout import DropoutKey
from transformer.ops.feed_forward import feed_forward
from transformer.ops.implementation import FusedAttention, Implementation, select, select_fused
from transformer.ops.normalization import rms_norm

glorot = nn.initializers.xavier_uniform()


class Build(NamedTuple):
    """Settings that every layer of a model shares.

    Attributes:
        config: Architecture of the model.
        ops: Implementation of the equations.
        backend: Backend that the program is compiled for.
        axes: Axes of devices over which the model is split.
    """

    config: ModelConfig
    ops: Implementation
    backend: str
    axes: Axes = ALONE

    @classmethod
    def choose(cls, config: ModelConfig, backend: str | None = None, axes: Axes = ALONE) -> "Build":
        """Makes the settings, with the implementation that the config names.

        Args:
            config: Architecture of the model.
            backend: Backend that the program is compiled for; None is JAX's default backend.
            axes: Axes of devices over which the model is split.
        """
        backend = jax.default_backend() if backend is None else backend
        return cls(config, select(config.implementation, backend, config.matmul_precision), backend, axes)

    def fused(self, keys: int) -> FusedAttention | None:
        """Returns the attention over rows of `keys` tokens, if it is one that stores no attention weights."""
        config = self.config
        if config.implementation == "plain" or config.attention_dropout:
            return None
        head_size = config.d_model // config.num_heads
        return select_fused(config.attention, self.backend, keys, head_size, config.matmul_precision)

    def attention_name(self, keys: int) -> str:
        """Returns `plain`, or the name of the function that `fused` returns."""
        fused = self.fused(keys)
        return "plain" if fused is None else getattr(fused, "func", fused).__name__


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
        shared: Axis of the activations that is split over the devices of the axis `tensor`; None if there is none.
    """

    build: Build
    rate: float
    shared: int | None = None

    def __call__(self, x: Array, key: DropoutKey | None) -> Array:
        if key is None:
            return x
        if self.shared is not None and self.build.axes.tensor > 1:
            first = self.build.axes.first(x.shape[self.shared])
            key = key._replace(starts=(0,) * (self.shared - 1) + (first,))
        return self.build.ops.dropout(x, self.rate, key, _site(self.path))

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


class FeedForward(nn.Module):
    """Position-wise feed-forward network (section 3.3, Eq. 2).

        FFN(x) = activation(x W1 + b1) W2 + b2

    Attributes:
        build: Settings of the model.
    """

    build: Build

    def setup(self) -> None:
        config, zeros = self.build.config, nn.initializers.zeros
        d_ff = self.build.axes.part(config.d_ff)
        self.kernel_in = self.param("kernel_in", glorot, (config.d_model, d_ff))
        self.bias_in = self.param("bias_in", zeros, (d_ff,))
        self.kernel_out = self.param("kernel_out", glorot, (d_ff, config.d_model))
        self.bias_out = self.param("bias_out", zeros, (config.d_model,))
        self.dropout = Dropout(self.build, config.activation_dropout, shared=2)

    def __call__(self, x: Array, dropout: DropoutKey | None = None) -> Array:
        y = feed_forward(
            x,
            self.kernel_in,
            self.bias_in,
            self.kernel_out,
            self.build.axes.once(self.bias_out),
            self.build.config.activation,
            dropout=self.dropout.bind_key(dropout),
            linear=self.build.ops.linear,
            relu=self.build.ops.relu,
        )
        return self.build.axes.sum(y)


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

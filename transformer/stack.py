"""A layer of Figure 1, and a stack of identical layers (section 3.1).

A stack is one scanned layer. The parameters of all layers have a leading axis of layers. The compiled program contains
the layer `unroll` times, not once for each layer.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from transformer.attention import KeysAndValues, MultiHeadAttention
from transformer.layers import AddAndNorm, Build, FeedForward, make_norm
from transformer.ops.backward import ATTENDED
from transformer.ops.dropout import DropoutKey, fold_in
from transformer.ops.masks import AttentionMask

# Keys and values of all layers of a stack. If the stack is unrolled, they are a tuple with one cache per layer, which a
# step can update without a copy. If it is scanned, they are one cache whose arrays have a leading axis of layers.
Caches = KeysAndValues | tuple[KeysAndValues, ...]

# What a layer keeps for its backward pass, by `model.rematerialization`. A layer whose parameters are stored in shards
# gathers them again instead of keeping them.
SAVED = {
    "gathered": lambda primitive, *_, **__: primitive is not lax.all_gather_p,
    "layer": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
}


class Context(NamedTuple):
    """Masks and positions of the sequences, which all layers of a stack share.

    Attributes:
        tokens: True for tokens, [B, T]; only batch norm reads it. None if every position is a token.
        own: Mask of self-attention, broadcast to [B, H, T, T], or an `AttentionMask` for fused attention. None if every
            position may attend to every other.
        memory: Mask of cross-attention, likewise. None if every source position may be attended to, and in the encoder.
        rotation: Sinusoids of the positions, [T, E] or [B, T, E], by which self-attention rotates its queries and keys.
            None if positions are added to the embeddings.
    """

    tokens: Array | None
    own: Array | AttentionMask | None
    memory: Array | AttentionMask | None = None
    rotation: Array | None = None


class Layer(nn.Module):
    """A layer of the encoder or the decoder (Figure 1).

    It consists of self-attention, cross-attention (in the decoder only) and a feed-forward network, each within
    Add & Norm. Rotary positions rotate queries and keys of self-attention only, because the difference between a target
    position and a source position is no distance.

    Attributes:
        build: Settings of the model.
        is_decoder: Whether the layer has cross-attention.
    """

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
        context: Context,
        dropout: DropoutKey | None,
        return_weights: bool,
    ) -> tuple[Array, tuple[Array | None, Array | None]]:
        """Computes the layer for entire sequences.

        Args:
            x: Activations [B, T, D].
            memory: Output of the encoder [B, S, D]; None in the encoder.
            context: Masks and positions.
            dropout: Dropout key of this layer; None in evaluation.
            return_weights: Whether to return the attention weights.

        Returns:
            The activations [B, T, D], and the weights of self-attention and cross-attention. Weights are [B, H, Q, K],
            or None if not asked for.
        """
        tokens, cross_weights = context.tokens, None

        def attend(y: Array) -> tuple[Array, Array | None]:
            return self.self_attention(y, y, context.own, dropout, return_weights, context.rotation)

        x, self_weights = self.self_attention_norm(x, attend, tokens, dropout)
        if self.is_decoder:
            assert memory is not None
            x, cross_weights = self.cross_attention_norm(
                x, lambda y: self.cross_attention(y, memory, context.memory, dropout, return_weights), tokens, dropout
            )
        x, _ = self.feed_forward_norm(x, lambda y: (self.feed_forward(y, dropout), None), tokens, dropout)
        return x, (self_weights, cross_weights)

    def memory_keys_and_values(self, memory: Array) -> KeysAndValues:
        """Projects the encoder's output [B, S, D] for cross-attention."""
        return self.cross_attention.keys_and_values(memory)

    def step(
        self, x: Array, cache: KeysAndValues, index: tuple[Array | int, ...], memory: KeysAndValues, context: Context
    ) -> tuple[Array, KeysAndValues]:
        """Computes the layer for the newest token of each of K hypotheses.

        Args:
            x: Activations [B, K, D].
            cache: Keys and values of earlier tokens, with the K slots of each position side by side.
            index: Start index in the cache of the new keys and values. It has 4 entries for a cache [B, H, P K, E], or
                5 for a cache with a leading axis of layers, of which the first entry is this layer.
            memory: Keys and values of the encoder's output, for this layer.
            context: Masks over the cache and the encoder's output, and positions of the new tokens. Keys in the cache
                are already rotated.

        Returns:
            The activations [B, K, D], and the cache with the new keys and values.
        """
        own_mask, memory_mask = context.own, context.memory
        assert not isinstance(own_mask, AttentionMask)
        assert not isinstance(memory_mask, AttentionMask)

        def attend_to_past(y: Array) -> tuple[Array, KeysAndValues]:
            layers = len(index) - 4
            keys, values = (
                lax.dynamic_update_slice(old, new.astype(old.dtype)[(None,) * layers], index)
                for old, new in zip(cache, self.self_attention.keys_and_values(y, context.rotation), strict=True)
            )
            own_keys, own_values = (
                lax.dynamic_index_in_dim(leaf, index[0], keepdims=False) if layers else leaf for leaf in (keys, values)
            )
            attended, _ = self.self_attention.attend(y, own_keys, own_values, own_mask, rotation=context.rotation)
            return attended, (keys, values)

        x, cache = self.self_attention_norm(x, attend_to_past)
        x, _ = self.cross_attention_norm(x, lambda y: self.cross_attention.attend(y, *memory, memory_mask))
        x, _ = self.feed_forward_norm(x, lambda y: (self.feed_forward(y), None))
        return x, cache


class Stack(nn.Module):
    """A stack of layers, with a final norm if the model is pre-norm.

    Attributes:
        build: Settings of the model.
        is_decoder: Whether the layers have cross-attention.
        num_layers: Number of layers L.
        unroll: Number of layers that the compiled loop contains, from 1 to L.
    """

    build: Build
    is_decoder: bool
    num_layers: int
    unroll: int

    def setup(self) -> None:
        self.layers = Layer(self.build, self.is_decoder)
        if self.build.config.norm_position == "pre":
            self.norm = make_norm(self.build)

    def __call__(
        self,
        x: Array,
        memory: Array | None,
        context: Context,
        dropout: DropoutKey | None,
        return_weights: bool,
    ) -> tuple[Array, tuple[Array | None, Array | None]]:
        """Computes all layers for entire sequences.

        Args:
            x: Embeddings [B, T, D].
            memory: Output of the encoder [B, S, D]; None in the encoder.
            context: Masks and positions.
            dropout: Dropout key of the step; None in evaluation.
            return_weights: Whether to return the attention weights.

        Returns:
            The activations after the last layer [B, T, D], and the weights of self-attention and cross-attention.
            Weights are [L, B, H, Q, K], or None if not asked for.
        """

        def body(layer: Layer, x: Array, number: Array) -> tuple[Array, Any]:
            # All layers have one module path, so only the number of the layer gives each its own dropout masks.
            key = None if dropout is None else fold_in(dropout, number)
            return apply(layer, x, memory, context, key, return_weights)

        apply: Any = Layer.__call__
        rematerialization = self.build.config.rematerialization
        if self.build.axes.gather_params is not None:
            apply = nn.map_variables(apply, "params", self.build.axes.gather_params)
            rematerialization = "gathered" if rematerialization == "none" else rematerialization
        if rematerialization != "none":
            # In straight-line code, XLA would merge what is computed again with what was computed before.
            body = nn.remat(body, policy=SAVED[rematerialization], prevent_cse=self.unroll > 1)
        scanned: Any = nn.scan(
            body,
            variable_axes={"params": 0, True: 0},
            split_rngs={"params": True},
            length=self.num_layers,
            unroll=self.unroll,
            check_constancy_invariants=False,
        )
        x, weights = scanned(self.layers, x, jnp.arange(self.num_layers))
        if self.build.config.norm_position == "pre":
            x = self.norm(x, context.tokens, dropout is not None)
        return x, weights

    def memory_keys_and_values(self, memory: Array) -> Caches:
        """Projects the encoder's output [B, S, D] for the cross-attention of each layer."""

        def of_layer(variables: Any) -> Any:
            return self._layer.apply(variables, memory, method="memory_keys_and_values")

        if self._unrolled:
            return tuple(of_layer(self._variables(number)) for number in range(self.num_layers))
        return lax.map(of_layer, self.layers.variables)

    def empty_caches(self, batch: Any, dtype: Any) -> Caches:
        """Makes caches that hold no positions yet.

        Args:
            batch: Number of rows B; symbolic under `jax.export`.
            dtype: Dtype of the keys and values.
        """
        config = self.build.config
        shape = (batch, config.num_heads, 0, config.d_model // config.num_heads)
        if self._unrolled:
            empty = jnp.zeros(shape, dtype)
            return tuple((empty, empty) for _ in range(self.num_layers))
        empty = jnp.zeros((self.num_layers, *shape), dtype)
        return empty, empty

    def step(
        self, x: Array, caches: Caches, index: Array | int, memory: Caches, context: Context
    ) -> tuple[Array, Caches]:
        """Computes all layers for the newest token of each of K hypotheses.

        Args:
            x: Embeddings [B, K, D].
            caches: Result of the previous step, or of `empty_caches`, grown to the positions needed.
            index: Index on the axis of keys at which the K new keys and values are written.
            memory: Result of `memory_keys_and_values`.
            context: Masks over the cache and the encoder's output, and positions of the new tokens.

        Returns:
            The activations after the last layer [B, K, D], and the caches with the new keys and values.
        """

        def apply(variables: Any, *arguments: Any) -> Any:
            return self._layer.apply(variables, *arguments, context, method="step")

        if self._unrolled:
            new = []
            for number in range(self.num_layers):
                own: Any = (caches[number], (0, 0, index, 0), memory[number])
                x, cache = apply(self._variables(number), x, *own)
                new.append(cache)
            caches = tuple(new)
        else:

            def body(carry: tuple[Array, Any], layer: tuple[Array, Any, Any]) -> tuple[Any, None]:
                number, variables, own = layer
                return apply(variables, *carry, (number, 0, 0, index, 0), own), None

            layers = (jnp.arange(self.num_layers), self.layers.variables, memory)
            (x, caches), _ = lax.scan(body, (x, caches), layers, unroll=self.unroll)
        if self.build.config.norm_position == "pre":
            x = self.norm(x, None, False)
        return x, caches

    @property
    def _unrolled(self) -> bool:
        return self.unroll == self.num_layers

    @property
    def _layer(self) -> Layer:
        return Layer(self.build, self.is_decoder, parent=None)

    def _variables(self, number: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[number], self.layers.variables)

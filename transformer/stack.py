"""A layer, and a stack of identical ones, encoder or decoder (section 3.1, Figure 1): one layer, scanned.

The parameters of all layers have a leading axis of layers, and the compiled program contains the layer `unroll` times,
not once for each layer.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from transformer.layers import AddAndNorm, Build, FeedForward, KeysAndValues, MultiHeadAttention, make_norm
from transformer.ops.dropout import DropoutKey, fold_in

# Unrolled, a stack's caches are a tuple with one cache for each layer, which a step can update in place; scanned, the
# leaves of one cache have a leading axis of layers.
Caches = KeysAndValues | tuple[KeysAndValues, ...]


class Context(NamedTuple):
    """What the layers of a stack are told of the sequences, besides the activations [B, T, D].

    tokens: [B, T], True for tokens; only batch norm asks. None: everywhere.
    own: the mask of self-attention, broadcast to [B, H, T, T]; None where there is nothing to mask.
    memory: the mask of the attention to the encoder, broadcast to [B, H, T, S]; None too in the encoder.
    rotation: sinusoids of the positions, [T, E] or [B, T, E], by which self-attention rotates its queries and keys;
        None where positions are added to the embeddings.
    """

    tokens: Array | None
    own: Array | None
    memory: Array | None = None
    rotation: Array | None = None


class Layer(nn.Module):
    """Self-attention, in the decoder attention to the encoder, and feed-forward, each in Add & Norm (Figure 1).

    Rotary positions rotate queries and keys of self-attention only: a position of the target and one of the source are
    not on one axis, and their difference is no distance.
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
        """[B, T, D] -> [B, T, D], and the weights of both kinds of attention, None unless asked for."""
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
        """What the attention to the encoder needs of the encoder's output [B, S, D]."""
        return self.cross_attention.keys_and_values(memory)

    def step(
        self, x: Array, cache: KeysAndValues, index: tuple[Array | int, ...], memory: KeysAndValues, context: Context
    ) -> tuple[Array, KeysAndValues]:
        """One token of each of K hypotheses, [B, K, D].

        Args:
            x: the activations.
            cache: keys and values of the tokens so far, for every position those of all K hypotheses side by side.
            index: where in the cache the new keys and values go. Its length is the number of the cache's axes: 4 for
                [B, H, P K, E], or 5 with a leading axis of layers, of which the first index names this one.
            memory: keys and values of the encoder's output, of this layer.
            context: of the new tokens; its masks are over the cache and the encoder's output. Cached keys are rotated.
        """

        def attend_to_past(y: Array) -> tuple[Array, KeysAndValues]:
            layers = len(index) - 4
            keys, values = (
                lax.dynamic_update_slice(old, new.astype(old.dtype)[(None,) * layers], index)
                for old, new in zip(cache, self.self_attention.keys_and_values(y, context.rotation), strict=True)
            )
            own_keys, own_values = (
                lax.dynamic_index_in_dim(leaf, index[0], keepdims=False) if layers else leaf for leaf in (keys, values)
            )
            attended, _ = self.self_attention.attend(y, own_keys, own_values, context.own, rotation=context.rotation)
            return attended, (keys, values)

        x, cache = self.self_attention_norm(x, attend_to_past)
        x, _ = self.cross_attention_norm(x, lambda y: self.cross_attention.attend(y, *memory, context.memory))
        x, _ = self.feed_forward_norm(x, lambda y: (self.feed_forward(y), None))
        return x, cache


class Stack(nn.Module):
    """`num_layers` layers, and with pre-norm a final norm.

    Attributes:
        build: what the layers are built with.
        is_decoder: whether the layers attend to an encoder's output, too.
        num_layers: their number L.
        unroll: how many layers the compiled loop contains, from 1 to L.
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
        """The activations after the last layer, and the attention weights [L, B, H, Q, K] of both kinds if asked for.

        Args:
            x: embeddings [B, T, D].
            memory: the encoder's output [B, S, D]; None in the encoder.
            context: who may attend to what, and where the tokens are.
            dropout: None when evaluating.
            return_weights: whether to return the weights of self-attention and of the attention to the encoder.
        """

        def body(layer: Layer, x: Array, number: Array) -> tuple[Array, Any]:
            # The layers share one module path, so the number of the layer is what keeps their masks apart.
            key = None if dropout is None else fold_in(dropout, number)
            return layer(x, memory, context, key, return_weights)

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
        """What the layers' attention to the encoder needs of its output [B, S, D]."""

        def of_layer(variables: Any) -> Any:
            return self._layer.apply(variables, memory, method="memory_keys_and_values")

        if self._unrolled:
            return tuple(of_layer(self._variables(number)) for number in range(self.num_layers))
        return lax.map(of_layer, self.layers.variables)

    def empty_caches(self, batch: Any, dtype: Any) -> Caches:
        """Caches without any position."""
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
        """One token of each of K hypotheses, [B, K, D], and the caches with it.

        Args:
            x: embeddings.
            caches: of `empty_caches`, grown to the positions needed, or of the last step.
            index: where on the axis of keys the K new ones go.
            memory: of `memory_keys_and_values`.
            context: of the new tokens; its masks are over the cache and the encoder's output.
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

"""A stack of identical layers, encoder or decoder (section 3.1): one layer, scanned.

The parameters of all layers have a leading axis of layers, and the compiled program contains the layer `unroll` times,
not once for each layer.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from transformer.layers import Build, KeysAndValues, Layer, Masks, Norm
from transformer.ops.dropout import DropoutKey, fold_in

# Unrolled, a stack's caches are a tuple with one cache for each layer, which a step can update in place; scanned, the
# leaves of one cache have a leading axis of layers.
Caches = KeysAndValues | tuple[KeysAndValues, ...]


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
            self.norm = Norm(self.build)

    def __call__(
        self,
        x: Array,
        memory: Array | None,
        masks: Masks,
        dropout: DropoutKey | None,
        return_weights: bool,
    ) -> tuple[Array, tuple[Array | None, Array | None]]:
        """The activations after the last layer, and the attention weights [L, B, H, Q, K] of both kinds if asked for.

        Args:
            x: embeddings [B, T, D].
            memory: the encoder's output [B, S, D]; None in the encoder.
            masks: who may attend to what.
            dropout: None when evaluating.
            return_weights: whether to return the weights of self-attention and of the attention to the encoder.
        """

        def body(layer: Layer, x: Array, number: Array) -> tuple[Array, Any]:
            # The layers share one module path, so the number of the layer is what keeps their masks apart.
            key = None if dropout is None else fold_in(dropout, number)
            return layer(x, memory, masks, key, return_weights)

        scanned: Any = nn.scan(
            body,
            variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
            split_rngs={"params": True},
            length=self.num_layers,
            unroll=self.unroll,
            check_constancy_invariants=False,
        )
        x, weights = scanned(self.layers, x, jnp.arange(self.num_layers))
        if self.build.config.norm_position == "pre":
            x = self.norm(x, masks.tokens, dropout is not None)
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

    def step(self, x: Array, caches: Caches, index: Array | int, memory: Caches, masks: Masks) -> tuple[Array, Caches]:
        """One token of each of K hypotheses, [B, K, D], and the caches with it.

        Args:
            x: embeddings.
            caches: of `empty_caches`, grown to the positions needed, or of the last step.
            index: where on the axis of keys the K new ones go.
            memory: of `memory_keys_and_values`.
            masks: of self-attention over the cache, and of the attention to the encoder.
        """

        def apply(variables: Any, *arguments: Any) -> Any:
            return self._layer.apply(variables, *arguments, masks, method="step")

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

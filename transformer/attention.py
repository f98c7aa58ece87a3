"""Multi-head attention with its projections (section 3.2.2)."""

import flax.linen as nn
from jax import Array, lax
from jax.nn.initializers import Initializer

from transformer.layers import Build, Dropout, glorot
from transformer.ops.dropout import DropoutKey
from transformer.ops.masks import AttentionMask
from transformer.ops.positions import rotate

# Keys and values of one attention, each [B, H, K, E]. `stack.Caches` holds them for all layers of a stack.
KeysAndValues = tuple[Array, Array]

# Query, key and value projections are initialized as parts of one matrix [D, 3 D], with Glorot's variance
# 2 / (D + 3 D). This is half the variance of a matrix [D, D]. With twice as much, a small post-norm model did not learn
# to attend to the source (docs/experiments.md).
glorot_of_three = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


class Linear(nn.Module):
    """Linear projection to or from the features of all heads, x W + b.

    If devices share the heads, each projects to or from its own heads.

    Attributes:
        build: Settings of the model.
        kernel_init: Initializer of W.
        from_heads: Whether the projection is from the heads, to the width of the model.
    """

    build: Build
    kernel_init: Initializer = glorot
    from_heads: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        axes, width = self.build.axes, self.build.config.d_model
        width = width if self.from_heads else axes.part(width)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], width))
        has_bias = self.build.config.attention_bias
        bias = self.param("bias", nn.initializers.zeros, (width,)) if has_bias else None
        if not self.from_heads:
            return self.build.ops.linear(x, kernel, bias)
        return axes.sum(self.build.ops.linear(x, kernel, None if bias is None else axes.once(bias)))


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
        self.output = Linear(self.build, from_heads=True)
        self.dropout = Dropout(self.build, self.build.config.attention_dropout, shared=1)

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
        mask: Array | AttentionMask | None,
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
        rotation: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """Attends from `x` [B, T, D] to `memory` [B, K, D].

        An `AttentionMask` stands for fused attention, which has neither weights to return nor dropout on them. `attend`
        describes the other arguments and the result. `rotation` applies to queries and keys alike.
        """
        if isinstance(mask, AttentionMask):
            return self._attend_fused(x, memory, mask, rotation), None
        return self.attend(x, *self.keys_and_values(memory, rotation), mask, dropout, return_weights, rotation)

    def _attend_fused(self, x: Array, memory: Array, mask: AttentionMask, rotation: Array | None) -> Array:
        attention = self.build.fused(memory.shape[1])
        assert attention is not None

        def split(x: Array, rotation: Array | None = None) -> Array:
            heads = x.reshape(*x.shape[:2], self._num_heads, -1)  # [B, T, H, E]: nothing is moved
            return heads if rotation is None else rotate(heads, rotation[..., None, :])

        # Without the barrier, XLA computes the projections of `memory` as one product, and then copies its parts.
        of_keys, of_values = lax.optimization_barrier((memory, memory))
        queries, keys = split(self.query(x), rotation), split(self.key(of_keys), rotation)
        segments = mask.segments(x.shape[0], x.shape[1], memory.shape[1])
        attended = attention(queries, keys, split(self.value(of_values)), *segments, mask.is_causal)
        return self.output(attended.reshape(*x.shape[:2], -1))

    def _split(self, x: Array, rotation: Array | None = None) -> Array:
        heads = self.build.ops.split_heads(x, self._num_heads)
        return heads if rotation is None else rotate(heads, rotation[..., None, :, :])

    @property
    def _num_heads(self) -> int:
        return self.build.axes.part(self.build.config.num_heads)

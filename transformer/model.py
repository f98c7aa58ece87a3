"""The encoder-decoder Transformer (section 3, Figure 1)."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from transformer.axes import ALONE, Axes
from transformer.config import ModelConfig
from transformer.layers import Build, Dropout
from transformer.ops.dropout import DropoutKey
from transformer.ops.masks import AttentionMask, ancestor_mask, padding_mask
from transformer.ops.positions import segment_positions, sinusoidal_positions
from transformer.shapes import Batch, Side
from transformer.stack import Caches, Context, Stack

Weights = dict[str, Float[Array, "L B H Q K"]]  # attention weights of all layers, by kind: encoder, decoder, cross


class Transformer(nn.Module):
    """Encoder-decoder Transformer as a linen module (section 3, Figure 1).

    `apply` runs a method on parameters, for instance `model.apply(params, batch, method="loss")`. `encode` and `decode`
    can be called alone. `__call__` runs both and the output layer; `loss` runs both and the loss. `start_decoding` and
    `decode_step` compute one token at a time. `dropout` is an argument of each call: a `DropoutKey` from
    `ops.dropout_key` in training, None in evaluation. It also tells batch norm whether the model is training.

    Attributes:
        config: Architecture of the model.
        dtype: Compute dtype, float32 or bfloat16. Parameters are always float32.
        backend: Backend that the program is compiled for; None is JAX's default backend.
        axes: Axes of devices over which the model is split. Each device then has a part of the parameters, and only
            `loss` can be computed.
    """

    config: ModelConfig
    dtype: Any = jnp.float32
    backend: Literal["cpu", "gpu", "tpu"] | None = None
    axes: Axes = ALONE

    def setup(self) -> None:
        config = self.config
        sizes = map(self.axes.part, (config.vocabulary_size, config.target_size))
        shape, target_shape = ((size, config.d_model) for size in sizes)
        normal = nn.initializers.normal(config.d_model**-0.5)
        if config.shared_embeddings == "all":
            self.embedding = self.param("embedding", normal, shape)
        else:
            self.source_embedding = self.param("source_embedding", normal, shape)
            self.target_embedding = self.param("target_embedding", normal, target_shape)
            if config.shared_embeddings == "none":
                self.output_embedding = self.param("output_embedding", normal, target_shape)
        if config.final_logits_bias:
            self.logits_bias = self.param("logits_bias", nn.initializers.zeros, target_shape[:1])
        if config.positions == "learned":
            self.position_table = self.param("positions", normal, (config.max_positions, config.d_model))
        self.build = build = Build.choose(config, self.backend, self.axes)
        self.source_dropout = Dropout(build, config.dropout)
        self.target_dropout = Dropout(build, config.dropout)

        def stack(is_decoder: bool, num_layers: int) -> Stack:
            # A loop copies what its backward pass needs. Only on a TPU does compiling all layers take longer than that.
            unroll = (1 if build.backend == "tpu" else num_layers) if config.scan_unroll is None else config.scan_unroll
            return Stack(build, is_decoder, num_layers, min(unroll, num_layers))

        self.encoder = stack(False, config.num_encoder_layers)
        self.decoder = stack(True, config.num_decoder_layers)

    def __call__(
        self,
        source: Int[Array, "B S"],
        source_mask: Bool[Array, "B S"],
        target: Int[Array, "B T"],
        target_mask: Bool[Array, "B T"] | None = None,
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
    ) -> tuple[Float[Array, "B T V"], Weights]:
        """Computes next-token logits for every position of `target`.

        Args:
            source: Token ids of the source, ending with the end id.
            source_mask: True for tokens, False for padding.
            target: Token ids of the target, beginning with the start id.
            target_mask: True for tokens, False for padding. Only batch norm needs it, because no target position
                attends to a later one.
            dropout: Key of the step's dropout; None in evaluation.
            return_weights: Whether to return the attention weights.

        Returns:
            The logits in float32, and a dict of attention weights [L, B, H, Q, K] of all L layers. Its keys are
            `encoder` and `decoder` (self-attention) and `cross` (cross-attention). It is empty unless `return_weights`
            is set.
        """
        sides = Side(source, source_mask), Side(target, target_mask)
        x, weights = self._both(*sides, dropout, return_weights)
        return self.logits(x), weights

    def hidden(self, batch: Batch, dropout: DropoutKey | None = None) -> Float[Array, "B T D"]:
        """Computes the decoder's output, from which `logits` makes next-token logits."""
        return self._both(*_sides(batch), dropout, False)[0]

    def loss(
        self, batch: Batch, *, label_smoothing: float | Float[Array, ""] = 0.0, dropout: DropoutKey | None = None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Computes the label-smoothed cross-entropy of a batch (section 5.4).

        It calls `ops.cross_entropy`, so the logits of the entire batch never exist at once.

        Args:
            batch: Sentence pairs, without an axis of micro-batches.
            label_smoothing: Share of the target distribution spread over the vocabulary, in [0, 1). If it is
                traced, the plain function computes the loss, whatever `config.implementation`.
            dropout: Key of the step's dropout; None in evaluation.

        Returns:
            The sum of the losses in nats, and the number of target tokens. If devices share the vocabulary, the sums of
            these over the devices.
        """
        hidden = self.hidden(batch, dropout)
        return self.build.ops.cross_entropy(
            hidden.reshape(-1, hidden.shape[-1]),
            self.output_table(),
            self.output_bias(),
            jnp.minimum(batch.target_output, self.config.target_size - 1).reshape(-1),  # padding may have no id
            batch.target_mask.reshape(-1),
            label_smoothing=label_smoothing,
            axis_name=self.axes.name,
        )

    def encode(
        self, source: Side, dropout: DropoutKey | None = None, return_weights: bool = False
    ) -> tuple[Float[Array, "B S D"], Weights]:
        """Computes the encoder's output, and its attention weights if requested.

        Args:
            source: Sequences that the encoder reads.
            dropout: Key of the step's dropout; None in evaluation.
            return_weights: Whether to return the attention weights [L, B, H, S, S], as `encoder`.
        """
        positions = self._positions(source)
        x = self._embed(source.tokens, self.source_table(), positions)
        x = self.source_dropout(x, dropout)
        context = Context(source.mask, self._mask(source, source, return_weights), None, self._rotation(positions))
        x, (weights, _) = self.encoder(x, None, context, dropout, return_weights)
        return x, {} if weights is None else {"encoder": weights}

    def decode(
        self,
        target: Side,
        memory: Float[Array, "B S D"],
        source: Side,
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
    ) -> tuple[Float[Array, "B T D"], Weights]:
        """Computes the decoder's output, from which `logits` makes next-token logits.

        Args:
            target: Sequences that the decoder reads.
            memory: Output of the encoder.
            source: Sequences that the encoder has read.
            dropout: Key of the step's dropout; None in evaluation.
            return_weights: Whether to return the attention weights, as `decoder` [L, B, H, T, T] and `cross`
                [L, B, H, T, S].
        """
        positions = self._positions(target)
        index = jnp.arange(target.tokens.shape[1]) if target.segments is None else segment_positions(target.segments)
        x = self._embed(target.tokens, self.target_table(), positions, index == 0)
        x = self.target_dropout(x, dropout)
        # No target position attends to a later one, so padding at the end needs no mask.
        own = self._mask(target, target._replace(mask=None), return_weights, is_causal=True)
        context = Context(target.mask, own, self._mask(target, source, return_weights), self._rotation(positions))
        x, (self_weights, cross_weights) = self.decoder(x, memory, context, dropout, return_weights)
        if self_weights is None or cross_weights is None:
            return x, {}
        return x, {"decoder": self_weights, "cross": cross_weights}

    def start_decoding(self, memory: Float[Array, "B S D"]) -> tuple[Caches, Caches]:
        """Makes empty caches, and each layer's keys and values of the encoder's output."""
        return self.decoder.empty_caches(memory.shape[0], self.dtype), self.decoder.memory_keys_and_values(memory)

    def decode_step(
        self,
        token: Int[Array, "B K"],
        position: Int[Array, ""],
        origins: Int[Array, "B K P"],
        caches: Caches,
        memory: Caches,
        source_mask: Bool[Array, "B S"],
    ) -> tuple[Float[Array, "B K V"], Caches]:
        """Computes next-token logits of K hypotheses, and the caches with `token` added.

        Args:
            token: Newest token of each hypothesis, at `position` (the start id at position 0).
            position: Index of `token` in its sequence, below P.
            origins: `origins[b, k, p]` is the beam slot in which hypothesis k's token at position p was computed; at
                `position`, k itself. Following it makes reordering the caches unnecessary when hypotheses move
                between slots.
            caches: Keys and values of all layers for P K positions, from the previous step or `start_decoding`, grown
                to P positions with any values.
            memory: Keys and values of the encoder's output, from `start_decoding`.
            source_mask: True for the tokens of the source.
        """
        positions = self._position_table(origins.shape[2])[position, None]
        x = self._embed(token, self.target_table(), positions, position == 0)
        masks = ancestor_mask(origins, position), padding_mask(source_mask)
        context = Context(None, *masks, self._rotation(positions))
        x, caches = self.decoder.step(x, caches, position * token.shape[1], memory, context)
        return self.logits(x), caches

    def logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Computes logits in float32 from the decoder's output (section 3.4)."""
        return self.build.ops.output_logits(x, self.output_table(), self.output_bias())

    def source_table(self) -> Array:
        """Returns the embedding of source tokens [V, D], with V of the source."""
        return self.embedding if self.config.shared_embeddings == "all" else self.source_embedding

    def target_table(self) -> Array:
        """Returns the embedding of target tokens [V, D]."""
        return self.embedding if self.config.shared_embeddings == "all" else self.target_embedding

    def output_table(self) -> Array:
        """Returns the output embedding [V, D]."""
        return self.output_embedding if self.config.shared_embeddings == "none" else self.target_table()

    def output_bias(self) -> Array | None:
        """Returns the bias of the logits [V], or None if the model has none."""
        return self.logits_bias if self.config.final_logits_bias else None

    def _both(
        self, source: Side, target: Side, dropout: DropoutKey | None, return_weights: bool
    ) -> tuple[Array, Weights]:
        memory, encoder_weights = self.encode(source, dropout, return_weights)
        x, decoder_weights = self.decode(target, memory, source, dropout, return_weights)
        return x, encoder_weights | decoder_weights

    def _embed(self, tokens: Array, table: Array, positions: Array, starts: Array | None = None) -> Array:
        """Looks up embeddings [B, T, D] and adds positions, unless these are rotary.

        With `decoder_start` zeros, the embeddings are zeros where `starts` is true. A pad id or start id that no token
        has is read as the last token.
        """
        scale = math.sqrt(self.config.d_model) if self.config.scale_embeddings else 1.0
        x = self.axes.sum(self.axes.lookup(table, tokens)) * scale
        if starts is not None and self.config.decoder_start == "zeros":
            x = jnp.where(starts[..., None], 0.0, x)
        return (x if self._rotary else x + positions).astype(self.dtype)

    def _mask(
        self, queries: Side, keys: Side, return_weights: bool, is_causal: bool = False
    ) -> Array | AttentionMask | None:
        """Lets a sentence attend to all of its own tokens, or to all of its translation."""
        packed = queries.segments is not None and keys.segments is not None
        segments = (queries.segments, keys.segments) if packed else (None, keys.mask)
        mask, length = AttentionMask(*segments, is_causal), keys.tokens.shape[1]
        is_fused = not return_weights and isinstance(length, int) and self.build.fused(length) is not None
        return mask if is_fused else mask.dense(queries.tokens.shape[1])

    def _rotation(self, positions: Array) -> Array | None:
        """Returns the positions that the layers rotate by, or None if they are not rotary."""
        return positions if self._rotary else None

    def _positions(self, side: Side) -> Array:
        """Looks up the position of each token, counted from 0 in its sentence.

        The result is [T, D], or [B, T, D] if rows are packed. For rotary positions, the last axis is E.
        """
        table = self._position_table(side.tokens.shape[1])
        return table if side.segments is None else table[segment_positions(side.segments)]

    def _position_table(self, length: Any) -> Array:
        config = self.config
        if config.positions == "learned":
            return self.position_table[:length]
        # Under `jax.export`, a symbolic length is not an int: it takes the first rows of the longest table.
        known = length if isinstance(length, int) else config.max_positions
        if config.positions == "rotary":
            return sinusoidal_positions(known, config.d_model // config.num_heads, "interleaved")[:length]
        return sinusoidal_positions(known, config.d_model, config.positions)[:length]

    @property
    def _rotary(self) -> bool:
        return self.config.positions == "rotary"


def _sides(batch: Batch) -> tuple[Side, Side]:
    """Splits a batch into what the encoder reads and what the decoder reads."""
    on_device: Any = jax.tree.map(jnp.asarray, batch)
    return (
        Side(on_device.source, on_device.source_mask, on_device.source_segments),
        Side(on_device.target_input, on_device.target_mask, on_device.target_segments),
    )

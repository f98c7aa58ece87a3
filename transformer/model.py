"""The encoder-decoder Transformer (section 3, Figure 1).

Three ways in: `encode`, `decode` and `__call__` (both at once) work on whole sequences and can be called alone;
`hidden` is `__call__` without the output layer, and `loss` goes on from it; `start_decoding` and `decode_step` produce
one token at a time, with the cache as argument and result.

`dropout` is an argument of each call: a `DropoutKey` when training, None when evaluating. Under batch norm it also
decides between the batch's statistics and the running ones.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from transformer.config import ModelConfig
from transformer.layers import Cache, DecoderLayer, Dropout, EncoderLayer, Norm
from transformer.ops.dropout import DropoutKey
from transformer.ops.linear import product_transposed
from transformer.ops.loss import cross_entropy
from transformer.ops.masks import ancestor_mask, causal_mask, padding_mask, segment_mask
from transformer.ops.positions import segment_positions, sinusoidal_positions
from transformer.shapes import Batch

Weights = dict[str, Float[Array, "B H Q K"]]  # attention weights by the name of their layer and kind


class Transformer(nn.Module):
    """The whole model.

    Attributes:
        config: the architecture.
        dtype: type of the computation, float32 or bfloat16; parameters are float32.
        axis_name: name of the mapped device axis over which batch norm sums its statistics, if any.
    """

    config: ModelConfig
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        config = self.config
        shape = (config.vocabulary_size, config.d_model)
        normal = nn.initializers.normal(config.d_model**-0.5)
        if config.shared_embeddings == "all":
            self.embedding = self.param("embedding", normal, shape)
        else:
            self.source_embedding = self.param("source_embedding", normal, shape)
            self.target_embedding = self.param("target_embedding", normal, shape)
            if config.shared_embeddings == "none":
                self.output_embedding = self.param("output_embedding", normal, shape)
        if config.final_logits_bias:
            self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (config.vocabulary_size,))
        if config.positions == "learned":
            self.position_table = self.param("positions", normal, (config.max_positions, config.d_model))
        self.encoder = [EncoderLayer(config, self.axis_name) for _ in range(config.num_encoder_layers)]
        self.decoder = [DecoderLayer(config, self.axis_name) for _ in range(config.num_decoder_layers)]
        self.source_dropout = Dropout(config.dropout)
        self.target_dropout = Dropout(config.dropout)
        if config.norm_position == "pre":
            self.encoder_norm = Norm(config, self.axis_name)
            self.decoder_norm = Norm(config, self.axis_name)

    def __call__(
        self,
        source: Int[Array, "B S"],
        source_mask: Bool[Array, "B S"],
        target: Int[Array, "B T"],
        target_mask: Bool[Array, "B T"] | None = None,
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
    ) -> tuple[Float[Array, "B T V"], Weights]:
        """Logits of the token behind each position of `target`, which starts with the start id.

        Args:
            source: token ids, the end id last.
            source_mask: True for tokens, False for padding.
            target: token ids behind the start id.
            target_mask: True for tokens, False for padding; only batch norm needs it, since no position attends to a
                later one.
            dropout: None when evaluating.
            return_weights: whether to return the attention weights.

        Returns:
            Float32 logits, and a dict of attention weights [B, H, Q, K], empty unless asked for: `encoder/0`,
            `decoder/0`, `cross/0` and so on, one entry a layer and kind.
        """
        memory, encoder_weights = self.encode(source, source_mask, dropout, return_weights)
        logits, decoder_weights = self.decode(target, memory, source_mask, target_mask, dropout, return_weights)
        return logits, encoder_weights | decoder_weights

    def hidden(
        self,
        source: Int[Array, "B S"],
        source_mask: Bool[Array, "B S"],
        target: Int[Array, "B T"],
        target_mask: Bool[Array, "B T"] | None = None,
        dropout: DropoutKey | None = None,
        source_segments: Int[Array, "B S"] | None = None,
        target_segments: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """What `__call__` computes, before the output layer; also of packed rows, whose segments are given."""
        memory, _ = self.encode(source, source_mask, dropout, segments=source_segments)
        return self._decode(target, memory, source_mask, target_mask, dropout, False, source_segments, target_segments)[
            0
        ]

    def loss(
        self, batch: Batch, *, label_smoothing: float = 0.0, dropout: DropoutKey | None = None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The summed cross-entropy of a batch in nats (section 5.4), and the number of its target tokens.

        The output layer and the loss are one function, `ops.loss.cross_entropy`: the logits of a whole batch never
        exist at once.
        """
        hidden = self.hidden(
            batch.source,
            batch.source_mask,
            batch.target_input,
            batch.target_mask,
            dropout,
            batch.source_segments,
            batch.target_segments,
        )
        return cross_entropy(
            hidden.reshape(-1, hidden.shape[-1]),
            self.output_table(),
            self.output_bias(),
            batch.target_output.reshape(-1),
            batch.target_mask.reshape(-1),
            label_smoothing=label_smoothing,
        )

    def encode(
        self,
        source: Int[Array, "B S"],
        source_mask: Bool[Array, "B S"],
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
        segments: Int[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B S D"], Weights]:
        """The encoder's output, which the decoder attends to, and its attention weights (if asked for)."""
        x = self._embed(source, self.source_table(), self._positions(source, segments))
        x = self.source_dropout(x, dropout)
        mask = padding_mask(source_mask) if segments is None else segment_mask(segments, segments)
        weights = {}
        for number, layer in enumerate(self.encoder):
            x, weights[f"encoder/{number}"] = layer(x, source_mask, mask, dropout, return_weights)
        if self.config.norm_position == "pre":
            x = self.encoder_norm(x, source_mask, dropout is not None)
        return x, weights if return_weights else {}

    def decode(
        self,
        target: Int[Array, "B T"],
        memory: Float[Array, "B S D"],
        source_mask: Bool[Array, "B S"],
        target_mask: Bool[Array, "B T"] | None = None,
        dropout: DropoutKey | None = None,
        return_weights: bool = False,
    ) -> tuple[Float[Array, "B T V"], Weights]:
        """Logits and attention weights, as `__call__` returns them, from the encoder's output."""
        x, weights = self._decode(target, memory, source_mask, target_mask, dropout, return_weights)
        return self.logits(x), weights

    def start_decoding(self, memory: Float[Array, "B S D"]) -> tuple[list[Cache], list[tuple[Array, Array]]]:
        """A cache without any position, and the keys and values of the encoder's output for each layer."""
        config = self.config
        empty = jnp.zeros((memory.shape[0], config.num_heads, 0, config.d_model // config.num_heads), self.dtype)
        cache = [(empty, empty) for _ in self.decoder]
        return cache, [layer.cross_attention.keys_and_values(memory) for layer in self.decoder]

    def decode_step(
        self,
        token: Int[Array, "B K"],
        position: Int[Array, ""],
        origins: Int[Array, "B K P"],
        cache: list[Cache],
        memory: list[tuple[Array, Array]],
        source_mask: Bool[Array, "B S"],
    ) -> tuple[Float[Array, "B K V"], list[Cache]]:
        """Logits of the token behind `token`, for K hypotheses a sentence, and the cache with `token` in it.

        Args:
            token: the newest token of each hypothesis, at `position` (the start id at 0).
            position: how many tokens stand before it, below P.
            origins: in which of the K places each hypothesis's token of each position was computed; at `position`
                its own. So the cache need not be reordered when hypotheses change their places.
            cache: keys and values [B, H, P K, E] of each layer, as the last step returned them, grown to P positions
                with anything.
            memory: the encoder's keys and values, from `start_decoding`.
            source_mask: True for the source's tokens.
        """
        x = self._embed(token, self.target_table(), self._position_table(origins.shape[2])[position])
        self_mask, memory_mask = ancestor_mask(origins, position), padding_mask(source_mask)
        new_cache = []
        for layer, layer_cache, layer_memory in zip(self.decoder, cache, memory, strict=True):
            x, layer_cache = layer.step(x, position, self_mask, layer_cache, layer_memory, memory_mask)
            new_cache.append(layer_cache)
        if self.config.norm_position == "pre":
            x = self.decoder_norm(x, None, False)
        return self.logits(x), new_cache

    def logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """The output layer (section 3.4), in float32."""
        rows = x.reshape(-1, x.shape[-1])
        logits = product_transposed(rows, self.output_table().astype(x.dtype)) + self.output_bias()
        return logits.reshape(*x.shape[:-1], -1)

    def source_table(self) -> Array:
        return self.embedding if self.config.shared_embeddings == "all" else self.source_embedding

    def target_table(self) -> Array:
        return self.embedding if self.config.shared_embeddings == "all" else self.target_embedding

    def output_table(self) -> Array:
        """The output embedding [V, D]."""
        return self.output_embedding if self.config.shared_embeddings == "none" else self.target_table()

    def output_bias(self) -> Array:
        """The bias of the logits [V]; zeros where the model has none."""
        return self.logits_bias if self.config.final_logits_bias else jnp.zeros(self.config.vocabulary_size)

    def _embed(self, tokens: Array, table: Array, positions: Array) -> Array:
        """Embeddings plus positions, which are broadcast to [B, T, D]."""
        scale = math.sqrt(self.config.d_model) if self.config.scale_embeddings else 1.0
        return (table[tokens] * scale + positions).astype(self.dtype)

    def _positions(self, tokens: Array, segments: Array | None) -> Array:
        """The positions of whole sequences, each counted from 0: [T, D], or [B, T, D] where rows are packed."""
        table = self._position_table(tokens.shape[1])
        return table if segments is None else table[segment_positions(segments)]

    def _position_table(self, length: Any) -> Array:
        config = self.config
        if config.positions == "learned":
            return self.position_table[:length]
        # A length that `jax.export` has left open is no int: it gets the first rows of the longest table.
        known = length if isinstance(length, int) else config.max_positions
        return sinusoidal_positions(known, config.d_model, config.positions)[:length]

    def _decode(
        self,
        target: Array,
        memory: Array,
        source_mask: Array,
        target_mask: Array | None,
        dropout: DropoutKey | None,
        return_weights: bool,
        source_segments: Array | None = None,
        target_segments: Array | None = None,
    ) -> tuple[Array, Weights]:
        x = self._embed(target, self.target_table(), self._positions(target, target_segments))
        x = self.target_dropout(x, dropout)
        self_mask, memory_mask = causal_mask(target.shape[1]), padding_mask(source_mask)
        if source_segments is not None and target_segments is not None:
            self_mask &= segment_mask(target_segments, target_segments)
            memory_mask = segment_mask(target_segments, source_segments)
        weights = {}
        for number, layer in enumerate(self.decoder):
            x, (weights[f"decoder/{number}"], weights[f"cross/{number}"]) = layer(
                x, memory, target_mask, self_mask, memory_mask, dropout, return_weights
            )
        if self.config.norm_position == "pre":
            x = self.decoder_norm(x, target_mask, dropout is not None)
        return x, weights if return_weights else {}

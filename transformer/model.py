"""The encoder-decoder Transformer (section 3, Figure 1).

Three ways in: `encode`, `decode` and `__call__` (both at once) work on whole sequences and can be called alone;
`hidden` is `__call__` without the output layer, and `loss` goes on from it; `start_decoding` and `decode_step` produce
one token at a time, with the cache as argument and result.

`dropout` is an argument of each call: a `DropoutKey` when training, None when evaluating. Under batch norm it also
decides between the batch's statistics and the running ones.
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from transformer.config import ModelConfig
from transformer.layers import Build, Dropout, Masks
from transformer.ops.dropout import DropoutKey
from transformer.ops.masks import ancestor_mask, causal_mask, padding_mask, segment_mask
from transformer.ops.positions import segment_positions, sinusoidal_positions
from transformer.shapes import Batch
from transformer.stack import Caches, Stack

Weights = dict[str, Float[Array, "L B H Q K"]]  # attention weights of all layers by kind: encoder, decoder, cross


class Transformer(nn.Module):
    """The whole model.

    Attributes:
        config: the architecture.
        dtype: type of the computation, float32 or bfloat16; parameters are float32.
        axis_name: name of the mapped device axis over which batch norm sums its statistics, if any.
        backend: what the program is compiled for; None is jax's default backend.
    """

    config: ModelConfig
    dtype: Any = jnp.float32
    axis_name: str | None = None
    backend: Literal["cpu", "gpu", "tpu"] | None = None

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
        backend = jax.default_backend() if self.backend is None else self.backend
        build = Build.choose(config, self.axis_name, backend)
        self.ops = build.ops
        self.source_dropout = Dropout(build, config.dropout)
        self.target_dropout = Dropout(build, config.dropout)

        def stack(is_decoder: bool, num_layers: int) -> Stack:
            # Compiling is quick on a CPU, and slicing the stacked parameters at run time is not.
            unroll = (num_layers if backend == "cpu" else 1) if config.scan_unroll is None else config.scan_unroll
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
        """Next-token logits for every position of `target`, which begins with the start token.

        Args:
            source: token ids, the end id last.
            source_mask: True for tokens, False for padding.
            target: token ids after the start id.
            target_mask: True for tokens, False for padding; only batch norm needs it, since no position attends to a
                later one.
            dropout: None when evaluating.
            return_weights: whether to return the attention weights.

        Returns:
            Float32 logits, and a dict of attention weights [L, B, H, Q, K], empty unless asked for: `encoder` and
            `decoder` for the self-attention of all L layers, `cross` for the decoder's attention to the encoder.
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

        The output layer and the loss are one function, `ops.cross_entropy`: the logits of a whole batch never exist at
        once.
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
        return self.ops.cross_entropy(
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
        x, (weights, _) = self.encoder(x, None, Masks(source_mask, mask), dropout, return_weights)
        return x, {} if weights is None else {"encoder": weights}

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

    def start_decoding(self, memory: Float[Array, "B S D"]) -> tuple[Caches, Caches]:
        """Caches without any position, and the keys and values of the encoder's output for each layer."""
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
        """Logits of the token after `token`, for K hypotheses a sentence, and the caches with `token` in them.

        Args:
            token: the newest token of each hypothesis, at `position` (the start id at 0).
            position: how many tokens come before it, below P.
            origins: `origins[b, k, p]` is the beam slot in which hypothesis k's token at position p was computed; at
                `position`, k itself. Following it makes reordering the caches unnecessary when hypotheses move
                between slots.
            caches: keys and values of all layers, of P K positions: those of the last step, grown to P positions with
                anything.
            memory: the encoder's keys and values, from `start_decoding`.
            source_mask: True for the source's tokens.
        """
        x = self._embed(token, self.target_table(), self._position_table(origins.shape[2])[position])
        masks = Masks(None, ancestor_mask(origins, position), padding_mask(source_mask))
        x, caches = self.decoder.step(x, caches, position * token.shape[1], memory, masks)
        return self.logits(x), caches

    def logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """The output layer (section 3.4), in float32."""
        return self.ops.output_logits(x, self.output_table(), self.output_bias())

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
        masks = Masks(target_mask, self_mask, memory_mask)
        x, (self_weights, cross_weights) = self.decoder(x, memory, masks, dropout, return_weights)
        if self_weights is None or cross_weights is None:
            return x, {}
        return x, {"decoder": self_weights, "cross": cross_weights}

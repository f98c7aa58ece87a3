"""`torch.nn.Transformer`, eager and compiled.

Settings for speed: batch first; scaled_dot_product_attention (`need_weights=False` inside) with a causal flag instead
of a mask for the target, whose padding needs no mask; fused Adam; bfloat16 by autocast or float32, whichever is faster.
The final norms that `nn.Transformer` adds are left out, because the paper does not have them.

The `dropout` option of these layers also drops attention weights and feed-forward activations, which prevents fast
attention on a CPU. Both are set to 0, as in ours. The compiled function includes the loss, so that the log-softmax of
the logits is fused.
"""

import math

import torch
from torch import Tensor, nn

from peers.job import DROPOUT, Job
from peers.positions import sinusoids
from peers.torch_training import TorchTraining, cross_entropy


class TorchTransformer(nn.Module):
    positions: Tensor

    def __init__(self, job: Job) -> None:
        super().__init__()
        size = job.size
        self.embedding = nn.Embedding(size.vocabulary, size.d_model)
        nn.init.normal_(self.embedding.weight, std=size.d_model**-0.5)
        self.register_buffer("positions", torch.from_numpy(sinusoids(job.longest, size.d_model)), persistent=False)
        self.dropout = nn.Dropout(DROPOUT)
        options = {"dim_feedforward": size.d_ff, "dropout": DROPOUT, "batch_first": True}
        encoder = nn.TransformerEncoderLayer(size.d_model, size.num_heads, **options)
        decoder = nn.TransformerDecoderLayer(size.d_model, size.num_heads, **options)
        self.transformer = nn.Transformer(
            size.d_model,
            size.num_heads,
            batch_first=True,
            custom_encoder=nn.TransformerEncoder(encoder, size.num_layers, enable_nested_tensor=False),
            custom_decoder=nn.TransformerDecoder(decoder, size.num_layers),
        )
        for module in self.transformer.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
            elif isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                module.register_module("dropout", nn.Identity())
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def embed(self, tokens: Tensor) -> Tensor:
        scaled = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return self.dropout(scaled + self.positions[: tokens.shape[1]])

    def forward(self, source: Tensor, source_mask: Tensor | None, target: Tensor) -> Tensor:
        padding = None if source_mask is None else ~source_mask
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
        hidden = self.transformer(
            self.embed(source),
            self.embed(target),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_mask=causal,
            tgt_is_causal=True,
        )
        return hidden @ self.embedding.weight.T


def start(job: Job, compiled: str | None = None) -> TorchTraining:
    torch.manual_seed(0)
    model = TorchTransformer(job)
    return TorchTraining(job, model, cross_entropy(model), compiled)

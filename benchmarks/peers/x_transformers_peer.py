"""`x-transformers`: an encoder and a decoder with cross-attention out of its own parts.

Set up for speed: `attn_flash` (scaled_dot_product_attention), pre-norm as it comes (its author's
advice), feed-forward with relu, no attention dropout (it would take attention off its fast path on a CPU); it has no
dropout behind the sub-layers, so dropout is on embeddings and within the feed-forward. `XTransformer` itself cannot tie
the output to the embedding, so its two wrappers are built here. No biases in attention, as it comes.
"""

import torch
from torch import Tensor, nn
from x_transformers import Decoder, Encoder, TransformerWrapper

from peers.job import DROPOUT, Job
from peers.torch_training import TorchTraining, cross_entropy


class XTransformers(nn.Module):
    def __init__(self, job: Job) -> None:
        super().__init__()
        size = job.size
        layers = {
            "dim": size.d_model,
            "depth": size.num_layers,
            "heads": size.num_heads,
            "attn_dim_head": size.d_model // size.num_heads,
            "attn_flash": True,
            "ff_mult": size.d_ff / size.d_model,
            "ff_custom_activation": nn.ReLU(),
            "ff_dropout": DROPOUT,
        }
        wrapper = {
            "num_tokens": size.vocabulary,
            "max_seq_len": job.longest,
            "scaled_sinu_pos_emb": True,
            "emb_dropout": DROPOUT,
        }
        self.encoder = TransformerWrapper(**wrapper, return_only_embed=True, attn_layers=Encoder(**layers))
        self.decoder = TransformerWrapper(
            **wrapper, tie_embedding=True, attn_layers=Decoder(**layers, cross_attend=True)
        )
        self.decoder.token_emb = self.encoder.token_emb

    def forward(self, source: Tensor, source_mask: Tensor, target: Tensor) -> Tensor:
        memory = self.encoder(source, mask=source_mask, return_embeddings=True)
        return self.decoder(target, context=memory, context_mask=source_mask)


class XTraining(TorchTraining):
    packages = ("torch", "x-transformers")


def start(job: Job, compiled: str | None = None) -> TorchTraining:
    torch.manual_seed(0)
    model = XTransformers(job)
    return XTraining(job, model, cross_entropy(model), compiled)

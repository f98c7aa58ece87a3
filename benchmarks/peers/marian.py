"""Hugging Face `MarianMTModel`, built from a config.

Settings for speed: scaled_dot_product_attention; bfloat16 by autocast or float32, whichever is faster; no cache of keys
and values in training; label smoothing by `F.cross_entropy`, since the Hugging Face Trainer's makes a second copy of
the logits.
"""

import torch
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from peers.job import DROPOUT, Job
from peers.torch_training import TorchTraining, cross_entropy


class MarianTraining(TorchTraining):
    packages = ("torch", "transformers")


def start(job: Job, compiled: str | None = None) -> TorchTraining:
    torch.manual_seed(0)
    size = job.size
    config = MarianConfig(
        vocab_size=size.vocabulary,
        d_model=size.d_model,
        encoder_layers=size.num_layers,
        decoder_layers=size.num_layers,
        encoder_attention_heads=size.num_heads,
        decoder_attention_heads=size.num_heads,
        encoder_ffn_dim=size.d_ff,
        decoder_ffn_dim=size.d_ff,
        max_position_embeddings=job.longest,
        activation_function="relu",
        dropout=DROPOUT,
        attention_dropout=0.0,
        activation_dropout=0.0,
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        tie_word_embeddings=True,
        pad_token_id=job.pad_id,
        eos_token_id=job.end_id,
        decoder_start_token_id=job.start_id,
        use_cache=False,
    )
    config._attn_implementation = "sdpa"
    model = MarianMTModel(config)

    def logits(source: Tensor, source_mask: Tensor | None, target: Tensor) -> Tensor:
        return model(input_ids=source, attention_mask=source_mask, decoder_input_ids=target).logits

    return MarianTraining(job, model, cross_entropy(logits), compiled)

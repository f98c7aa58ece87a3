"""Hugging Face `MarianMTModel.generate` with our weights.

Settings for speed: scaled_dot_product_attention, the default cache, `inference_mode`, sentences sorted by length, and
the fastest of several batch sizes.
"""

from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, MarianConfig, MarianMTModel

from peers.decoders.job import Job

PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


def state_of(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Our parameters as a state dict with Marian's names."""
    state = {}
    for path, array in weights.items():
        if path == "embedding":
            for name in ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
                state[f"{name}.weight"] = array
        elif path == "logits_bias":
            state["final_logits_bias"] = array[None]
        else:
            stack, _, *parts = path.split("/")
            for number, of_layer in enumerate(array):
                state[f"model.{stack}.layers.{number}.{_name(parts)}"] = of_layer.T
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}


def _name(parts: list[str]) -> str:
    module, part, *rest = parts
    if module == "feed_forward":
        kind, position = part.split("_")
        return f"fc{1 if position == 'in' else 2}.{'weight' if kind == 'kernel' else 'bias'}"
    if rest and part == "norm":
        of = module.removesuffix("_norm")
        name = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
        prefix = "final" if of == "feed_forward" else name[of]
        return f"{prefix}_layer_norm.{'weight' if rest[0] == 'scale' else 'bias'}"
    attention = "encoder_attn" if module == "cross_attention" else "self_attn"
    return f"{attention}.{PARTS[part]}.{'weight' if rest[0] == 'kernel' else 'bias'}"


class Marian:
    packages = ("torch", "transformers")
    batch_sizes = (32, 64, 128)

    def __init__(self, job: Job, dtype: str) -> None:
        self.note, self._job, model = dtype, job, job.model
        config = MarianConfig(
            vocab_size=model.vocabulary_size,
            d_model=model.d_model,
            encoder_layers=model.num_encoder_layers,
            decoder_layers=model.num_decoder_layers,
            encoder_attention_heads=model.num_heads,
            decoder_attention_heads=model.num_heads,
            encoder_ffn_dim=model.d_ff,
            decoder_ffn_dim=model.d_ff,
            max_position_embeddings=model.max_positions,
            activation_function=model.activation,
            scale_embedding=model.scale_embeddings,
            share_encoder_decoder_embeddings=True,
            tie_word_embeddings=True,
            pad_token_id=job.pad_id,
            eos_token_id=job.end_id,
            decoder_start_token_id=job.start_id,
            forced_eos_token_id=None,
        )
        config._attn_implementation = "sdpa"
        self._model: Any = MarianMTModel(config).eval()  # type checkers do not understand its methods
        missing, unexpected = self._model.load_state_dict(state_of(job.read_weights()), strict=False)
        if unexpected or any("embed_positions" not in name for name in missing):
            raise ValueError(f"The parameters do not fit MarianMTModel: unexpected {unexpected}, missing {missing}.")
        self._device = torch.device("cuda" if job.device == "gpu" else "cpu")
        self._model.to(self._device, torch.bfloat16 if dtype == "bfloat16" else torch.float32)

    def translate(self, sentences: list[list[int]], beam_size: int, batch_size: int) -> list[list[int]]:
        job, order = self._job, sorted(range(len(sentences)), key=lambda index: -len(sentences[index]))
        search = GenerationConfig(
            num_beams=beam_size,
            length_penalty=job.length_penalty,
            max_length=job.max_length + 1,  # including the start token
            min_length=(job.forced_length or 0) + 1,
            do_sample=False,
            pad_token_id=job.pad_id,
            eos_token_id=job.end_id,
            decoder_start_token_id=job.start_id,
        )
        found: list[list[int]] = [[]] * len(sentences)
        for first in range(0, len(order), batch_size):
            indices = order[first : first + batch_size]
            width = len(sentences[indices[0]])
            rows = [sentences[index] + [job.pad_id] * (width - len(sentences[index])) for index in indices]
            mask = [[1] * len(sentences[index]) + [0] * (width - len(sentences[index])) for index in indices]
            with torch.inference_mode():
                ids = self._model.generate(
                    input_ids=torch.tensor(rows, device=self._device),
                    attention_mask=torch.tensor(mask, device=self._device),
                    generation_config=search,
                )
            for index, row in zip(indices, ids[:, 1:].tolist(), strict=True):
                found[index] = row[: row.index(job.end_id)] if job.end_id in row else row
        return found


start = Marian

"""CTranslate2 with a model that is built from our weights as NumPy arrays.

Its tokens are our token ids in decimal. It sorts sentences by length and makes batches itself. The fastest of several
batch sizes is measured.
"""

import os
import tempfile
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerSpec
from ctranslate2.specs.common_spec import Activation

from peers.decoders.job import Job
from peers.positions import sinusoids

ACTIVATIONS = {"relu": Activation.RELU, "gelu": Activation.GELU, "swish": Activation.SWISH}


def spec_of(job: Job) -> Any:  # the attributes of a spec have no types
    """Our parameters as a model specification with CTranslate2's names."""
    model, stacked = job.model, job.read_weights()
    weights = {name: array for name, array in stacked.items() if "/layers/" not in name}
    for name, array in stacked.items():
        if "/layers/" in name:
            weights |= {name.replace("/layers/", f"/{number}/"): layer for number, layer in enumerate(array)}
    spec: Any = TransformerSpec.from_config(
        (model.num_encoder_layers, model.num_decoder_layers),
        model.num_heads,
        pre_norm=False,
        activation=ACTIVATIONS[model.activation],
    )

    def linear(target: Any, *names: str) -> None:
        target.weight = np.concatenate([weights[f"{name}/kernel"].T for name in names])
        target.bias = np.concatenate([weights[f"{name}/bias"] for name in names])

    def norm(target: Any, name: str) -> None:
        target.gamma, target.beta = weights[f"{name}/norm/scale"], weights[f"{name}/norm/bias"]

    def self_attention(target: Any, name: str) -> None:
        linear(target.linear[0], f"{name}/query", f"{name}/key", f"{name}/value")
        linear(target.linear[1], f"{name}/output")
        norm(target.layer_norm, f"{name}_norm")

    def feed_forward(target: Any, name: str) -> None:
        target.linear_0.weight, target.linear_0.bias = weights[f"{name}/kernel_in"].T, weights[f"{name}/bias_in"]
        target.linear_1.weight, target.linear_1.bias = weights[f"{name}/kernel_out"].T, weights[f"{name}/bias_out"]
        norm(target.layer_norm, f"{name}_norm")

    for number, layer in enumerate(spec.encoder.layer):
        self_attention(layer.self_attention, f"encoder/{number}/self_attention")
        feed_forward(layer.ffn, f"encoder/{number}/feed_forward")
    for number, layer in enumerate(spec.decoder.layer):
        self_attention(layer.self_attention, f"decoder/{number}/self_attention")
        name = f"decoder/{number}/cross_attention"
        linear(layer.attention.linear[0], f"{name}/query")
        linear(layer.attention.linear[1], f"{name}/key", f"{name}/value")
        linear(layer.attention.linear[2], f"{name}/output")
        norm(layer.attention.layer_norm, f"{name}_norm")
        feed_forward(layer.ffn, f"decoder/{number}/feed_forward")
    interleaved = sinusoids(model.max_positions, model.d_model)
    halved = np.concatenate([interleaved[:, 0::2], interleaved[:, 1::2]], axis=1)
    for side, embeddings in ((spec.encoder, spec.encoder.embeddings[0]), (spec.decoder, spec.decoder.embeddings)):
        embeddings.weight = weights["embedding"]
        side.position_encodings.encodings = halved
        side.scale_embeddings = True
    spec.decoder.projection.weight = weights["embedding"]
    spec.decoder.projection.bias = weights["logits_bias"]

    tokens = [str(number) for number in range(model.vocabulary_size)]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    # The format requires an unknown token, although every id is known. A trained model never generates the pad id.
    spec.config.unk_token = spec.config.bos_token = str(job.pad_id)
    spec.config.eos_token, spec.config.decoder_start_token = str(job.end_id), str(job.start_id)
    spec.config.add_source_eos = False
    return spec


class CTranslate2:
    packages = ("ctranslate2",)
    batch_sizes = (32, 64, 128)

    def __init__(self, job: Job, workers: str) -> None:
        """Builds the translator, with the given number of parallel workers.

        On a CPU, the workers share the cores, and each translates one batch at a time.
        """
        cores, number, self._job = len(os.sched_getaffinity(0)), int(workers), job
        dtype, spec = "float16" if job.device == "gpu" else "float32", spec_of(job)
        spec.validate()
        with tempfile.TemporaryDirectory() as directory:
            spec.save(directory)
            self._translator = ctranslate2.Translator(
                directory,
                device="cuda" if job.device == "gpu" else "cpu",
                compute_type=dtype,
                inter_threads=number,
                intra_threads=max(1, cores // number),
            )
        self.note = f"{dtype}, {number} {'worker' if number == 1 else 'workers'}"

    def translate(self, sentences: list[list[int]], beam_size: int, batch_size: int) -> list[list[int]]:
        results = self._translator.translate_batch(
            [list(map(str, sentence)) for sentence in sentences],
            max_batch_size=batch_size,
            beam_size=beam_size,
            length_penalty=self._job.length_penalty,
            max_decoding_length=self._job.max_length,
            min_decoding_length=self._job.forced_length or 1,
        )
        return [list(map(int, result.hypotheses[0])) for result in results]


start = CTranslate2

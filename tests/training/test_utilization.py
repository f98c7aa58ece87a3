"""FLOPs of a step against XLA's count of the lowered program, and the peaks of devices."""

import dataclasses
from functools import partial

import jax
import numpy as np

from transformer import parameters
from transformer.config import ModelConfig
from transformer.model import Transformer
from transformer.shapes import Batch
from transformer.training.step import batch_loss
from transformer.training.utilization import peak_flops, step_flops

CONFIG = ModelConfig(vocabulary_size=3000, num_encoder_layers=3, num_decoder_layers=2, implementation="plain")


def xla_flops(config: ModelConfig, S: int, T: int, rows: int) -> float:
    """XLA's count for the loss and its gradient."""
    model = Transformer(config, backend="cpu")  # every layer is written out: XLA counts the body of a loop once
    source, target, mask = np.ones((rows, S), np.int32), np.ones((rows, T), np.int32), partial(np.ones, dtype=bool)
    batch = Batch(source, mask((rows, S)), target, target, mask((rows, T)), np.arange(rows, dtype=np.int32))
    params = jax.eval_shape(lambda: parameters.draw(model, 0))
    gradient = jax.value_and_grad(partial(batch_loss, model), has_aux=True)
    count = jax.jit(gradient).lower(params, batch).cost_analysis()
    assert count is not None
    return count["flops"]


def test_flops_are_those_that_xla_counts():
    """But for elementwise operations, which are below 0.5 %, and the logits that the plain loss computes twice."""
    sizes = _, T, rows = 16, 128, 4
    count = xla_flops(CONFIG, *sizes)
    again = 2 * rows * T * CONFIG.d_model * CONFIG.vocabulary_size
    assert 1.0 < (count - again) / step_flops(CONFIG, *sizes) < 1.005
    for change in ({"num_encoder_layers": 4}, {"num_decoder_layers": 3}):
        more = dataclasses.replace(CONFIG, **change)
        added = step_flops(more, *sizes) - step_flops(CONFIG, *sizes)
        assert 1.0 < (xla_flops(more, *sizes) - count) / added < 1.005


def test_peaks():
    assert peak_flops(["NVIDIA H200"] * 8, "bfloat16") == 8 * 989e12
    assert peak_flops(["NVIDIA H200"] * 8, "float32") is None
    assert peak_flops(["TPU v5 lite", "TPU v99"], "bfloat16") is None
    assert peak_flops(["cpu"], "bfloat16") is None

"""The models and batches that several parts measure."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peers.job import LABEL_SMOOTHING, SIZES, Size

from accelerators.record import Record
from transformer.config import ModelConfig, OptimizerConfig, TokenizerConfig
from transformer.data.batches import Batches
from transformer.data.tokens import TokenPairs
from transformer.errors import require
from transformer.model import Transformer
from transformer.runtime import resolve_dtype
from transformer.shapes import Batch
from transformer.training import parallel
from transformer.training.optimizer import make_optimizer
from transformer.training.step import train_step

LENGTH = 64  # tokens of a row on each side
ROWS = 390  # of the paper's 25,000 tokens
MEDIAN, SPREAD = 24, 0.5  # tokens of a sentence, and the standard deviation of the logarithm of their number
BATCHES = 20  # pairs for about this many batches are packed, so that every batch is full


def require_accelerator(record: Record) -> None:
    """Raises InputError if JAX would compute on the CPU, unless the sizes are tiny."""
    require(
        record.tiny or jax.default_backend() != "cpu",
        "JAX finds no accelerator. To try the benchmark itself on a CPU, give --tiny.",
    )


def size_of(name: str, record: Record) -> Size:
    """The size of a model by its name, or the tiny one."""
    return SIZES["tiny" if record.tiny else name]


def batch_shape(record: Record) -> tuple[int, int]:
    """Rows of a batch, and tokens of a row on each side."""
    return (4, 16) if record.tiny else (ROWS, LENGTH)


def make_step(config: ModelConfig, optimizer_config: OptimizerConfig, label_smoothing: float = LABEL_SMOOTHING) -> Any:
    """The model, the optimizer and the step, made as the training loop makes them."""
    model = Transformer(config, dtype=jnp.dtype(resolve_dtype("auto")[0]))
    optimizer = make_optimizer(optimizer_config, config.d_model, 100_000)
    options = {"model": model, "optimizer": optimizer, "label_smoothing": label_smoothing, "seed": 0}
    step = parallel.map_train_step(partial(train_step, **options, total=parallel.total))
    return model, optimizer, step


def packed_batch(vocabulary: int, rows: int, length: int) -> Batch:
    """A batch of random tokens, packed as in training.

    The lengths of the sources are log-normal, and a target has from 0.8 to 1.2 times the length of its source.
    """
    generator = np.random.default_rng(0)
    number = BATCHES * rows * length // MEDIAN
    lengths = np.exp(generator.normal(np.log(min(MEDIAN, length / 3)), SPREAD, number))
    flat = []
    for factor in (1.0, generator.uniform(0.8, 1.2, number)):
        own = np.clip(lengths * factor, 1, length - 2).astype(int)
        offsets = np.concatenate([[0], np.cumsum(own)])
        flat += [generator.integers(3, vocabulary, offsets[-1], dtype=np.int32), offsets]
    pairs = TokenPairs(*flat)
    return Batches(pairs, TokenizerConfig(), tokens=rows * length, row_multiple=rows, seed=0, pack_length=length)[0]

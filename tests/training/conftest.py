"""A model that compiles in a second, and batches of very uneven lengths."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from transformer.config import ModelConfig, TokenizerConfig
from transformer.data.batches import Batches
from transformer.data.tokens import TokenPairs
from transformer.shapes import Batch


@pytest.fixture(scope="session")
def tiny_model() -> ModelConfig:
    return ModelConfig(
        vocabulary_size=270,
        d_model=8,
        num_heads=2,
        d_ff=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
        max_positions=32,
        dropout=0.2,
        attention_dropout=0.1,
        activation_dropout=0.1,
        dtype="float32",
    )


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Makes a batch of random tokens. Its rows have very different lengths; the last ones are empty."""

    def make(seed: int, rows: int, S: int, T: int, empty_rows: int) -> Batch:
        generator = np.random.default_rng(seed)
        filled = np.arange(rows) < rows - empty_rows

        def side(length: int) -> tuple[np.ndarray, np.ndarray]:
            mask = (np.arange(length) < generator.integers(1, length + 1, (rows, 1))) & filled[:, None]
            return np.where(mask, generator.integers(3, 270, (rows, length)), 0).astype(np.int32), mask

        source, source_mask = side(S)
        target, target_mask = side(T)
        shifted = np.concatenate([np.ones((rows, 1), np.int32), target[:, :-1]], axis=1)
        target_input = np.where(target_mask, shifted, 0).astype(np.int32)
        return Batch(source, source_mask, target_input, target, target_mask, np.arange(rows, dtype=np.int32))

    return make


class InterruptedBatches(Batches):
    interrupted_at: int | None

    def part(self, n: int, rows: Any) -> Any:
        if n == self.interrupted_at:
            raise InterruptedError
        return super().part(n, rows)


@pytest.fixture(scope="session")
def tiny_batches() -> Callable[..., Batches]:
    """Makes batches of random pairs, 4 per epoch. Each sentence repeats one token.

    Taking batch `interrupted_at` raises InterruptedError, as if the process had been killed after that many steps.
    """

    def make(
        *, pairs: int = 40, row_multiple: int = 1, shuffle: bool = True, interrupted_at: int | None = None
    ) -> Batches:
        generator = np.random.default_rng(pairs)
        lengths = generator.integers(2, 8, pairs)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.repeat(generator.integers(3, 20, pairs), lengths).astype(np.int32)
        batches = InterruptedBatches(
            TokenPairs(ids, offsets, ids + 1, offsets),
            TokenizerConfig(),
            tokens=64,
            row_multiple=row_multiple,
            seed=0 if shuffle else None,
        )
        batches.interrupted_at = interrupted_at
        return batches

    return make

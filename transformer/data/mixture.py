"""How often the pairs of each corpus occur per epoch."""

from collections.abc import Sequence

import numpy as np

from transformer.config import DataConfig
from transformer.errors import InputError


def weights_of(config: DataConfig, sizes: Sequence[int]) -> list[float]:
    """How often each pair of a corpus occurs per epoch, from `data.weights` or `data.temperature`.

    With a temperature T, a corpus of n pairs is drawn in proportion to n^(1/T), and each pair of the largest one once.

    Args:
        config: The config.
        sizes: Number of pairs of each corpus.
    """
    if config.temperature is None:
        return [*config.weights] or [1.0] * len(sizes)
    largest = max(sizes)
    return [(size / largest) ** (1 / config.temperature) * largest / max(size, 1) for size in sizes]


def drawn(weights: Sequence[float], counts: np.ndarray) -> np.ndarray:
    """How many pairs of each corpus and lengths an epoch has.

    Each number is rounded up or down, so that the sum over the first lengths of a corpus is always the nearest integer
    to its exact value. So the rounding prefers neither short nor long pairs, and the number of pairs of a corpus is its
    weight times its size, rounded.

    Args:
        weights: How often each pair of a corpus occurs per epoch.
        counts: Number of pairs [C, L] of each corpus and lengths.

    Returns: The numbers [C, L].

    Raises: InputError if no pair of a corpus is drawn.
    """
    exact = np.cumsum(np.asarray(weights)[:, None] * counts, axis=1)
    numbers = np.diff(np.floor(exact + 0.5).astype(np.int64), axis=1, prepend=0)
    for index, (weight, number) in enumerate(zip(weights, numbers.sum(axis=1), strict=True)):
        if not number:
            size = counts[index].sum()
            raise InputError(
                f"Corpus {index + 1} of --data.train has {size:,} pairs and the weight {weight:g}, so no pair of it "
                "would be used. Give it a larger weight, or leave it out."
            )
    return numbers

"""Checks of sequence lengths against `model.max_positions`."""

from collections.abc import Callable, Sequence

import numpy as np

from transformer.errors import InputError


def check_lengths(lengths: Sequence[int] | np.ndarray, positions: int, name: Callable[[int], str], advice: str) -> None:
    """Checks that no sequence has more tokens than the model has positions.

    Args:
        lengths: Number of tokens of each sequence, including the end token.
        positions: The model's `max_positions`.
        name: Name of sequence n, counted from 0, as the beginning of a sentence ("Line 7").
        advice: A sentence that says what to do about it.
    """
    longer = np.flatnonzero(np.asarray(lengths) > positions)
    if len(longer):
        first = int(longer[0])
        raise InputError(
            f"{name(first)} has {lengths[first]} tokens, but the model has positions for {positions}. {advice}"
        )


def check_pairs(
    source_lengths: np.ndarray, target_lengths: np.ndarray, positions: int, origin: str, advice: str
) -> None:
    """Checks both sides of sentence pairs with `check_lengths`.

    `origin` names the files that the pairs come from.
    """
    for side, lengths in (("source", source_lengths), ("target", target_lengths)):
        check_lengths(lengths, positions, lambda n, side=side: f"The {side} of pair {n + 1} of {origin}", advice)

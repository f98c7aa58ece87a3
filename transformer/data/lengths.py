"""What is too long for a model: a sequence needs a position for each token, and `model.max_positions` bounds them."""

from collections.abc import Callable, Sequence

import numpy as np

from transformer.errors import InputError


def check_lengths(lengths: Sequence[int] | np.ndarray, positions: int, name: Callable[[int], str], advice: str) -> None:
    """Raises InputError if a sequence has more tokens than a model has positions, and names the first one.

    Args:
        lengths: tokens of each sequence, with the end token.
        positions: the model's.
        name: what sequence n is, counted from 0, as the beginning of a sentence: "Line 7".
        advice: what to do about it, as a sentence.
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
    """`check_lengths` for both sides of sentence pairs, which come from `origin`."""
    for side, lengths in (("source", source_lengths), ("target", target_lengths)):
        check_lengths(lengths, positions, lambda n, side=side: f"The {side} of pair {n + 1} of {origin}", advice)

"""Sequences of about the same length as the rows of padded arrays, in few shapes: what inference computes on."""

from collections.abc import Iterator, Sequence

import numpy as np


def of_one_width(lengths: np.ndarray, tokens: int, longest: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Batches of sequences of about the same length, each a padded width, a number of rows, and the sequences' numbers.

    The widest come first: memory that lacks, lacks at once.

    Args:
        lengths: Of the sequences, in tokens, at least 1.
        tokens: Width times rows in one batch at the most; but a batch has a row at least.
        longest: Width that none exceeds, as no length does.
    """
    widths = np.array([min(_round_up(length), longest) for length in lengths.tolist()], int)
    for width in sorted({*widths.tolist()}, reverse=True):
        of_width = np.flatnonzero(widths == width)
        of_width = of_width[np.argsort(lengths[of_width], kind="stable")]
        most = max(1, tokens // width)
        for start in range(0, len(of_width), most):
            chosen = of_width[start : start + most]
            rows = most
            while not start and rows // 4 >= len(chosen):  # few shapes: the last as all, a single one by quarters
                rows //= 4
            yield width, rows, chosen


def pad(ids: Sequence[Sequence[int]], rows: int, width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences as an array [rows, width] of ids, and another that is True where there is a token.

    Args:
        ids: The sequences, at most `rows`; the rows that are left over are empty.
        rows: Number of rows.
        width: Length of each, at least that of the longest sequence.
        pad_id: What stands behind a sequence's end.
    """
    padded, mask = np.full((rows, width), pad_id, np.int32), np.zeros((rows, width), bool)
    for row, sequence in enumerate(ids):
        padded[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = True
    return padded, mask


def _round_up(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96 ...: few values, so few compilations."""
    power = 16
    while power < length:
        power *= 2
    between = power * 3 // 4
    return between if power > 16 and length <= between else power

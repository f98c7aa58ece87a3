"""Sequences of about the same length as the rows of padded arrays, in few shapes: what inference computes on."""

from collections.abc import Iterator, Sequence

import numpy as np


def of_one_width(
    lengths: np.ndarray, widths: Sequence[int], tokens: int, row_divisor: int | None = None
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Batches of sequences of about the same length, each a padded width, a number of rows, and the sequences' indices.

    Widest batches come first, so that running out of memory happens at the start.

    Args:
        lengths: the sequences' lengths in tokens, at least 1.
        widths: the padded widths, ascending, the last at least the longest length.
        tokens: maximum of width x rows in a batch. A batch has at least one row, though.
        row_divisor: a width with few sequences gets a batch of this fraction of the rows, or of its square, and so on.
            None gives every batch of a width the same number of rows.
    """
    order = np.argsort(-lengths, kind="stable")
    used, start = set[int](), 0
    while start < len(order):
        width = widths[int(np.searchsorted(widths, lengths[order[start]]))]
        rows = max(1, tokens // width)
        chosen = order[start : start + rows]
        start += rows
        while row_divisor and width not in used and rows // row_divisor >= len(chosen):
            rows //= row_divisor
        used.add(width)
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

"""Padded arrays of few shapes for inference, from sequences of similar length."""

from collections.abc import Iterator, Sequence

import numpy as np


def of_one_width(
    lengths: np.ndarray, widths: Sequence[int], tokens: int, row_divisor: int | None = None, shards: int = 1
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Groups sequences of similar length into batches of few shapes.

    The widest batches come first, so that running out of memory happens at the start.

    Args:
        lengths: Length of each sequence in tokens, at least 1.
        widths: The padded widths to choose from, in ascending order. The last one is at least the longest length.
        tokens: Maximum of width x rows in a batch. A batch has at least one row, though.
        row_divisor: Divisor of the number of rows. A batch of only a few sequences of a new width gets this fraction of
            the rows, or the fraction squared, and so on. None gives all batches of a width the same number of rows.
        shards: Number of devices that share a batch. The number of rows is for each of them.

    Yields: Width of a batch, its number of rows in each shard, and the indices of its sequences.
    """
    order = np.argsort(-lengths, kind="stable")
    used, start = set[int](), 0
    while start < len(order):
        width = widths[int(np.searchsorted(widths, lengths[order[start]]))]
        rows = max(1, tokens // width)
        chosen = order[start : start + rows * shards]
        start += rows * shards
        while row_divisor and width not in used and rows // row_divisor * shards >= len(chosen):
            rows //= row_divisor
        used.add(width)
        yield width, rows, chosen


def deal(number: int, rows: int, shards: int) -> np.ndarray:
    """Deals sequences out to shards in turn.

    Args:
        number: Number of sequences, at most `rows` x `shards`.
        rows: Number of rows in each shard. The shards follow each other in one array.
        shards: Number of shards.

    Returns: The row of each sequence.
    """
    index = np.arange(number)
    return index % shards * rows + index // shards


def pad(ids: Sequence[Sequence[int]], rows: int, width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads sequences to an array of one shape.

    Args:
        ids: The sequences, at most `rows` of them. The remaining rows consist of padding.
        rows: Number of rows.
        width: Number of columns, at least the length of the longest sequence.
        pad_id: The id that fills a row after the end of its sequence.

    Returns: The ids (int32) and a mask that is True where there is a token, both of shape [rows, width].
    """
    padded, mask = np.full((rows, width), pad_id, np.int32), np.zeros((rows, width), bool)
    for row, sequence in enumerate(ids):
        padded[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = True
    return padded, mask

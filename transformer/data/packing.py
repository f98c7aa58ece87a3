"""Packing of several sentence pairs into each row, with hardly any padding."""

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """A layout of packed rows, described by spaces for pairs of given lengths.

    Pairs of equal lengths are interchangeable, so the layout does not say which pair fills a space. The arrays have one
    entry per space.

    Attributes:
        num_rows: Number of rows.
        row: Row of each space, from 0, ascending.
        source_lengths, target_lengths: Exact lengths in tokens of a pair that fills the space.
        source_starts, target_starts: First column of the space on each side.
        segment: Number of the space within its row, from 1.
    """

    num_rows: int
    row: np.ndarray
    source_lengths: np.ndarray
    target_lengths: np.ndarray
    source_starts: np.ndarray
    target_starts: np.ndarray
    segment: np.ndarray


def row_shape(source_lengths: np.ndarray, target_lengths: np.ndarray, length: int) -> tuple[int, int]:
    """Chooses the source and target length (S, T) of a row that fits every pair.

    The longer side has `length` tokens. The ratio of the sides equals the ratio of all source tokens to all target
    tokens, so that both sides fill up together. A side becomes longer if a pair needs it.
    """
    source, target = int(source_lengths.sum()), int(target_lengths.sum())
    longer = max(source, target)
    S, T = (round(length * side / longer) for side in (source, target))
    return max(S, int(source_lengths.max())), max(T, int(target_lengths.max()))


def pack(source_lengths: np.ndarray, target_lengths: np.ndarray, S: int, T: int) -> Rows:
    """Packs pairs into few rows by best fit, with the longest pairs first.

    This is bin packing in two dimensions.

    Only the number of pairs of each (source, target) length matters. All rows with the same lengths are therefore
    filled at once, and the running time hardly grows with the corpus.

    Args:
        source_lengths, target_lengths: Tokens of each pair, at most S and T.
        S, T: Source and target tokens of a row.
    """
    codes, left = np.unique(source_lengths * (T + 1) + target_lengths, return_counts=True)
    lengths = np.stack(np.divmod(codes, T + 1), axis=1)
    order = np.argsort(-lengths.sum(axis=1), kind="stable")  # longest pair first
    lengths, left = lengths[order], left[order]  # left: number of pairs of these lengths that are not packed yet
    sides = np.ascontiguousarray(lengths.T)
    kinds, counts = [], []
    for longest in range(len(lengths)):
        while left[longest]:
            kind = _fill(left, sides, longest, S, T)
            distinct, times = np.unique(kind, return_counts=True)
            more = int((left[distinct] // times).min())
            left[distinct] -= more * times
            kinds.append(lengths[kind])
            counts.append(1 + more)
    return _lay_out(kinds, np.array(counts))


def _fill(left: np.ndarray, sides: np.ndarray, first: int, S: int, T: int) -> list[int]:
    """Fills one row with `first`, then with the longest remaining pairs that fit.

    Each pair is subtracted from `left`. A pair that did not fit will not fit later, so the search only moves forward.

    Returns: The indices of the pairs' lengths.
    """
    row, index, (source, target) = [], first, sides
    while True:
        row.append(index)
        left[index] -= 1
        S, T = S - source[index], T - target[index]
        fitting = (left[index:] > 0) & (source[index:] <= S) & (target[index:] <= T)
        index += int(fitting.argmax())
        if not fitting.any():
            return row


def _lay_out(kinds: list[np.ndarray], counts: np.ndarray) -> Rows:
    """The layout of all rows.

    There are `counts[k]` rows of kind k, each filled with pairs of the lengths `kinds[k]`.
    """
    spaces = np.array([len(kind) for kind in kinds])
    lengths = np.concatenate([np.tile(kind, (count, 1)) for kind, count in zip(kinds, counts, strict=True)])
    per_row = np.repeat(spaces, counts)
    row = np.repeat(np.arange(len(per_row)), per_row)
    first = np.repeat(np.cumsum(per_row) - per_row, per_row)  # index of the first space in the same row
    before = np.cumsum(lengths, axis=0) - lengths
    starts = before - before[first]
    segment = np.arange(len(row)) - first + 1
    return Rows(len(per_row), row, lengths[:, 0], lengths[:, 1], starts[:, 0], starts[:, 1], segment)

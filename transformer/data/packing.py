"""Sentence pairs side by side in rows of one shape, so that hardly any padding is left."""

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """A layout of pairs in rows. Pairs of the same lengths are interchangeable, so a slot has lengths and no pair.

    num_rows: how many.
    row: of each slot, from 0 up.
    source_lengths, target_lengths: what fits into each slot exactly.
    source_starts, target_starts: the columns that each slot begins at.
    segment: the index of each slot in its row, from 1.
    """

    num_rows: int
    row: np.ndarray
    source_lengths: np.ndarray
    target_lengths: np.ndarray
    source_starts: np.ndarray
    target_starts: np.ndarray
    segment: np.ndarray


def row_shape(source_lengths: np.ndarray, target_lengths: np.ndarray, length: int) -> tuple[int, int]:
    """The source and target tokens (S, T) of a row into which every pair fits.

    The longer side has `length` tokens, and the sides are in proportion to all source and all target tokens, so that
    both fill up together. A side is longer where a pair needs it.
    """
    source, target = int(source_lengths.sum()), int(target_lengths.sum())
    longer = max(source, target)
    S, T = (round(length * side / longer) for side in (source, target))
    return max(S, int(source_lengths.max())), max(T, int(target_lengths.max()))


def pack(source_lengths: np.ndarray, target_lengths: np.ndarray, S: int, T: int) -> Rows:
    """Lays pairs out in as few rows as best fit, longest first, finds (bin packing in two dimensions).

    Only the number of pairs of each (source, target) length matters, so the work is done for all rows of a kind at
    once, and hardly grows with the corpus.

    Args:
        source_lengths, target_lengths: tokens of each pair, at most S and T.
        S, T: tokens of a row.
    """
    codes, left = np.unique(source_lengths * (T + 1) + target_lengths, return_counts=True)
    lengths = np.stack(np.divmod(codes, T + 1), axis=1)
    order = np.argsort(-lengths.sum(axis=1), kind="stable")  # the longest pair first
    lengths, left = lengths[order], left[order]  # left: pairs of these lengths that have no slot yet
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
    """One row as indices of lengths: `first`, then always the longest pair that is left and fits.

    Each is taken out of `left`. What did not fit before does not fit later, so the search never goes back.
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
    """The slots of all rows, `counts[k]` of kind k."""
    slots = np.array([len(kind) for kind in kinds])
    lengths = np.concatenate([np.tile(kind, (count, 1)) for kind, count in zip(kinds, counts, strict=True)])
    per_row = np.repeat(slots, counts)
    row = np.repeat(np.arange(len(per_row)), per_row)
    first = np.repeat(np.cumsum(per_row) - per_row, per_row)  # of the slot's row
    before = np.cumsum(lengths, axis=0) - lengths
    starts = before - before[first]
    segment = np.arange(len(row)) - first + 1
    return Rows(len(per_row), row, lengths[:, 0], lengths[:, 1], starts[:, 0], starts[:, 1], segment)

"""Packing of several sentence pairs into each row, with hardly any padding."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spaces(NamedTuple):
    """Spaces of chosen rows, each for one sentence pair. The arrays have one entry per space.

    Pairs of equal lengths are interchangeable, so a space has a number among the spaces of its lengths, not a pair.

    Attributes:
        row: Index of the row among the chosen rows, ascending.
        lengths: Index of the pair's lengths, among those that were packed.
        ordinal: Number of the space among all spaces of these lengths, from 0.
        source_starts, target_starts: First column of the space on each side.
        segment: Number of the space within its row, from 1.
    """

    row: np.ndarray
    lengths: np.ndarray
    ordinal: np.ndarray
    source_starts: np.ndarray
    target_starts: np.ndarray
    segment: np.ndarray


class Layout:
    """The rows of an epoch, as kinds of rows with equal spaces.

    A few thousand kinds describe any number of rows. What a row contains is computed from its index.

    Attributes:
        num_rows: Number of rows.
    """

    def __init__(self, lengths: np.ndarray, kinds: Sequence[np.ndarray], counts: Sequence[int]) -> None:
        """Takes the lengths [L, 2], the indices of the lengths in a row of each kind, and the rows of each kind."""
        self._row_ends = np.cumsum(counts)
        self.num_rows = int(self._row_ends[-1])
        self._sizes = np.array([len(kind) for kind in kinds])
        self._first = np.cumsum(self._sizes) - self._sizes
        self._lengths = np.concatenate(kinds)
        first = np.repeat(self._first, self._sizes)  # index of the first space of the same kind
        before = np.cumsum(lengths[self._lengths], axis=0) - lengths[self._lengths]
        self._starts = before - before[first]
        self._segment = np.arange(len(first)) - first + 1
        self._bases = _numbered(self._lengths, np.repeat(counts, self._sizes))

    def spaces(self, rows: np.ndarray) -> Spaces:
        """The spaces of the rows with these indices, which are below `num_rows`."""
        kind = np.searchsorted(self._row_ends, rows, side="right")
        within = rows - (self._row_ends[kind] - np.diff(self._row_ends, prepend=0)[kind])
        sizes = self._sizes[kind]
        row = np.repeat(np.arange(len(rows)), sizes)
        space = np.arange(len(row)) + np.repeat(self._first[kind] - (np.cumsum(sizes) - sizes), sizes)
        return Spaces(
            row,
            self._lengths[space],
            self._bases[space] + within[row],
            self._starts[space, 0],
            self._starts[space, 1],
            self._segment[space],
        )


def _numbered(groups: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first of `counts[i]` consecutive numbers for each entry i, so that none occurs twice in a group."""
    order = np.argsort(groups, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    bases = np.empty_like(before)
    bases[order] = before - np.repeat(before[first], np.diff(first, append=len(order)))
    return bases


def row_shape(lengths: np.ndarray, counts: np.ndarray, length: int) -> tuple[int, int]:
    """Chooses the source and target length (S, T) of a row that fits every pair.

    The longer side has `length` tokens. The ratio of the sides equals the ratio of all source tokens to all target
    tokens, so that both sides fill up together. A side becomes longer if a pair needs it.

    Args:
        lengths: Source and target lengths [L, 2].
        counts: Number of pairs of each lengths [L].
        length: Tokens of the longer side.
    """
    totals = [int(total) for total in counts @ lengths]
    proportional = (round(length * total / max(totals)) for total in totals)
    S, T = (max(own, int(longest)) for own, longest in zip(proportional, lengths.max(axis=0), strict=True))
    return S, T


def pack(lengths: np.ndarray, counts: np.ndarray, S: int, T: int) -> Layout:
    """Packs pairs into few rows by best fit, with the longest pairs first.

    This is bin packing in two dimensions. All rows with the same lengths are filled at once, so the running time hardly
    grows with the corpus.

    Args:
        lengths: Source and target lengths [L, 2], at most S and T.
        counts: Number of pairs of each lengths [L].
        S, T: Source and target tokens of a row.
    """
    order = np.argsort(-lengths.sum(axis=1), kind="stable")  # longest pair first
    left = counts[order]  # number of pairs of these lengths that are not packed yet
    sides = np.ascontiguousarray(lengths[order].T)
    kinds, rows = [], []
    for longest in range(len(order)):
        while left[longest]:
            kind = _fill(left, sides, longest, S, T)
            distinct, times = np.unique(kind, return_counts=True)
            more = int((left[distinct] // times).min())
            left[distinct] -= more * times
            kinds.append(order[kind])
            rows.append(1 + more)
    return Layout(lengths, kinds, rows)


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

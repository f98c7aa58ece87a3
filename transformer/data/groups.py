"""Sentence pairs grouped by their lengths, for corpora of any size."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from transformer.data.tokens import TokenPairs

_PAIRS = 2**20  # number of pairs whose lengths are in memory at once


class Groups(NamedTuple):
    """The pairs of equal lengths.

    Attributes:
        lengths: The distinct source and target lengths [L, 2], in ascending order.
        counts: Number of pairs [L].
        order: The indices of all pairs, sorted by their lengths and then by themselves.
    """

    lengths: np.ndarray
    counts: np.ndarray
    order: np.ndarray


def group(pairs: TokenPairs) -> Groups:
    """Groups pairs by their lengths, with a counting sort that reads the offsets twice."""
    parts = [np.unique(codes, return_counts=True) for _, codes in _codes(pairs)]
    codes, inverse = np.unique(np.concatenate([codes for codes, _ in parts]), return_inverse=True)
    counts = np.bincount(inverse, np.concatenate([counts for _, counts in parts])).astype(np.int64)
    order = np.empty(pairs.num_pairs, np.int32 if pairs.num_pairs < 2**31 else np.int64)
    ends = np.cumsum(counts) - counts  # of what is filled in so far, for each group
    for start, own in _codes(pairs):
        groups = np.searchsorted(codes, own).astype(np.uint16 if len(codes) < 2**16 else np.int64)
        by_group = np.argsort(groups, kind="stable")  # a radix sort of 16 bits
        number = np.bincount(groups, minlength=len(codes))
        places = (ends - (np.cumsum(number) - number))[groups[by_group]] + np.arange(len(groups))
        order[places] = start + by_group
        ends += number
    return Groups(np.stack(np.divmod(codes, 2**32), axis=1), counts, order)


def _codes(pairs: TokenPairs) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the index of the first of many pairs, and a number for the two lengths of each."""
    for start in range(0, pairs.num_pairs, _PAIRS):
        source, target = (
            np.diff(offsets[start : start + _PAIRS + 1]) + 1 for offsets in (pairs.source_offsets, pairs.target_offsets)
        )
        yield start, source * 2**32 + target

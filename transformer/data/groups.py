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
        counts: Number of pairs [C, L] of each corpus and lengths.
        order: The indices of all pairs, sorted by their lengths, then by their corpus, then by themselves.
    """

    lengths: np.ndarray
    counts: np.ndarray
    order: np.ndarray


def group(pairs: TokenPairs) -> Groups:
    """Groups pairs by their lengths, with a counting sort that reads the offsets twice."""
    parts = [(corpus, *np.unique(codes, return_counts=True)) for corpus, _, codes in _codes(pairs)]
    codes, inverse = np.unique(np.concatenate([codes for _, codes, _ in parts]), return_inverse=True)
    counts = np.zeros((max(1, len(pairs.sizes)), len(codes)), np.int64)
    corpora = np.repeat([corpus for corpus, _, _ in parts], [len(codes) for _, codes, _ in parts])
    np.add.at(counts, (corpora, inverse), np.concatenate([numbers for _, _, numbers in parts]))
    order = np.empty(pairs.num_pairs, np.int32 if pairs.num_pairs < 2**31 else np.int64)
    total = counts.sum(axis=0)
    ends = np.cumsum(total) - total  # of what is filled in so far, for each group
    for _, start, own in _codes(pairs):
        groups = np.searchsorted(codes, own).astype(np.uint16 if len(codes) < 2**16 else np.int64)
        by_group = np.argsort(groups, kind="stable")  # a radix sort of 16 bits
        number = np.bincount(groups, minlength=len(codes))
        indices = (ends - (np.cumsum(number) - number))[groups[by_group]] + np.arange(len(groups))
        order[indices] = start + by_group
        ends += number
    return Groups(np.stack(np.divmod(codes, 2**32), axis=1), counts, order)


def _codes(pairs: TokenPairs) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields a corpus, the index of the first of many of its pairs, and a number for the two lengths of each."""
    first = 0
    for corpus, size in enumerate(pairs.sizes or [pairs.num_pairs]):
        for start in range(first, first + size, _PAIRS):
            stop = min(start + _PAIRS, first + size)
            sides = pairs.source_offsets, pairs.target_offsets
            source, target = (np.diff(offsets[start : stop + 1]) + 1 for offsets in sides)
            yield corpus, start, source * 2**32 + target
        first += size

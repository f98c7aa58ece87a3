"""Finding repeated sentence pairs in a stream, with 16 bytes per pair."""

import hashlib
from collections.abc import Iterator

import numpy as np

from transformer.config.data import Normalization
from transformer.data.normalization import normalize
from transformer.data.pairs import Pairs

_HASH = "S16"  # of fixed size; NumPy's order of byte strings takes all 16 bytes into account


class Seen:
    """The pairs seen so far, as hashes of 128 bits in a few sorted arrays.

    Each array is more than twice as large as the next one. So a hash is merged into a larger array a few times only.
    """

    def __init__(self, normalization: Normalization) -> None:
        """Takes the normalization, after which pairs are compared."""
        self._normalization: Normalization = normalization
        self._sorted: list[np.ndarray] = []

    def first(self, pairs: Pairs) -> list[int]:
        """The indices of the pairs that did not occur before, neither in this call nor in an earlier one."""
        hashes = np.array([*self._hashes(pairs)], _HASH)
        distinct, index = np.unique(hashes, return_index=True)
        new = np.ones(len(distinct), bool)
        for known in self._sorted:
            found = np.searchsorted(known, distinct)
            new &= known[np.minimum(found, len(known) - 1)] != distinct
        self._add(distinct[new])
        return np.sort(index[new]).tolist()

    def _hashes(self, pairs: Pairs) -> Iterator[bytes]:
        for texts in zip(pairs.sources, pairs.targets, strict=True):
            source, target = (normalize(text, self._normalization) for text in texts)
            yield hashlib.blake2b(f"{len(source)} {source}{target}".encode(), digest_size=16).digest()

    def _add(self, hashes: np.ndarray) -> None:
        if not len(hashes):
            return
        while self._sorted and len(self._sorted[-1]) <= 2 * len(hashes):
            hashes = np.sort(np.concatenate([self._sorted.pop(), hashes]), kind="stable")
        self._sorted.append(hashes)

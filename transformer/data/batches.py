"""Training batches of one shape, made of packed sentence pairs.

Batch n is a pure function of (pairs, config, seed, n), and making it takes a time that does not depend on the number of
pairs. No epoch is ever laid out or shuffled as a whole.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from transformer.config import TokenizerConfig
from transformer.data.groups import group
from transformer.data.mixture import drawn
from transformer.data.packing import Spaces, pack, row_shape
from transformer.data.permutation import derive, make_key, permute
from transformer.data.tokens import TokenPairs
from transformer.errors import InputError
from transformer.shapes import Batch

_PREFETCH = 4  # number of batches made ahead of the consumer
# Batches of many rows have a multiple of 8. Accelerators compute in tiles, and XLA's tiled transposes on a CPU take ten
# times as long with an odd number of tokens.
_ROW_MULTIPLE, _MANY_ROWS = 8, 32


class _Chosen(NamedTuple):
    """The pairs of one batch, and the row, first columns and segment number of each."""

    pairs: np.ndarray
    row: np.ndarray
    source_starts: np.ndarray
    target_starts: np.ndarray
    segment: np.ndarray


class Batches:
    """An endless sequence of batches of packed rows. Each pair occurs once per epoch, unless corpora have weights.

    `batches[n]` counts n across epochs. In each epoch, (seed, epoch) alone decides which pairs share a row and which
    rows share a batch. The pairs of batch n and their rows do not depend on `row_multiple`. So a run resumes with the
    same batches when the number of devices changes.

    Attributes:
        shape: Source tokens of a row, target tokens of a row, and rows of a batch.
        per_epoch: Number of batches per epoch.
        padding: Share of all source and target positions that hold no token, including positions of empty rows.
    """

    def __init__(
        self,
        pairs: TokenPairs,
        ids: TokenizerConfig,
        *,
        tokens: int,
        row_multiple: int,
        seed: int | None,
        pack_length: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Chooses the shape and packs the pairs into rows.

        Args:
            pairs: The tokenized pairs, at least one.
            ids: The special ids.
            tokens: Upper bound on the padded source tokens of a batch, and separately on its padded target tokens.
            row_multiple: The number of rows is rounded up to a multiple of this (devices times accumulation steps) by
                empty rows at the end. A batch may therefore exceed `tokens` by less than `row_multiple` rows.
            seed: Seed of the shuffling. None packs the same pairs into the same rows in each epoch.
            pack_length: Tokens of a row's longer side. Rows are longer if a pair needs it. None makes rows as long as
                the longest pair.
            weights: How often each pair of a corpus occurs per epoch, for each corpus of `pairs`. With a fraction, an
                epoch has only some of the pairs, and later ones have the others. None is 1 for all.

        Raises: InputError if `row_multiple` rows exceed `tokens`, or a weight is so small that no pair is drawn.
        """
        self._pairs, self._ids, self._seed = pairs, ids, seed
        self._groups = groups = group(pairs)
        numbers = groups.counts if weights is None else drawn(weights, groups.counts)
        # A cell has the pairs of equal lengths of one corpus. Cells are in the order of `groups.order`.
        self._available, self._drawn = groups.counts.T.ravel(), numbers.T.ravel()
        self._first, self._cell_ends = np.cumsum(self._available) - self._available, np.cumsum(self._drawn)
        self._counts = counts = numbers.sum(axis=0)
        self._before = np.cumsum(counts) - counts
        used = groups.lengths[counts > 0], counts[counts > 0]
        S, T = row_shape(*used, pack_length or int(used[0].max()))
        check_budget(tokens, row_multiple, max(S, T), pack_length)
        self._layout = pack(groups.lengths, counts, S, T)
        self._filled_rows = _spread(self._layout.num_rows, tokens // max(S, T))
        rows = -(-self._filled_rows // row_multiple) * row_multiple

        self.shape = S, T, rows
        self.per_epoch = -(-self._layout.num_rows // self._filled_rows)
        self.padding = 1 - int((counts @ groups.lengths).sum()) / ((S + T) * rows * self.per_epoch)

    def _shuffle(
        self, what: str, epoch: int | np.ndarray, index: np.ndarray, size: np.ndarray, group: int | np.ndarray = 0
    ) -> np.ndarray:
        """Where indices [N] below `size` go in an epoch, in a permutation of `what` of its own for each group."""
        if self._seed is None:
            return index
        key = derive(make_key(what, self._seed), np.atleast_1d(epoch))
        return permute(index, size, derive(key, np.atleast_1d(group)))

    def _choose(self, n: int, rows: slice | np.ndarray) -> _Chosen:
        """The pairs in some rows of batch n."""
        epoch, number = divmod(n, self.per_epoch)
        layout, filled = self._layout, self._filled_rows
        # Without this permutation, the incomplete batch would always be the last one.
        (batch,) = self._shuffle("batches", epoch, np.array([number]), np.array([self.per_epoch]))
        chosen = np.arange(self.shape[2])[rows]
        chosen = chosen[chosen < min(filled, layout.num_rows - batch * filled)]
        spaces = layout.spaces(self._shuffle("rows", epoch, batch * filled + chosen, np.array([layout.num_rows])))
        pairs = self._fill(epoch, spaces)
        return _Chosen(pairs, spaces.row, spaces.source_starts, spaces.target_starts, spaces.segment)

    def _fill(self, epoch: int, spaces: Spaces) -> np.ndarray:
        """The pairs that fill spaces.

        The pairs of a cell are drawn round after round, each round in another order. With the weight 1, round r is
        epoch r. With another weight, an epoch draws fewer or more pairs than a round has, from where the last epoch
        stopped.
        """
        group, ordinal = spaces.lengths, spaces.ordinal
        if len(self._groups.counts) > 1:  # corpora meet in a row
            ordinal = self._shuffle("corpora", epoch, ordinal, self._counts[group], group)
        number = self._before[group] + ordinal
        cell = np.searchsorted(self._cell_ends, number, side="right")
        count = self._drawn[cell]
        first = count * (0 if self._seed is None else epoch)
        turn, index = np.divmod(first + number - (self._cell_ends[cell] - count), self._available[cell])
        return self._groups.order[self._first[cell] + self._shuffle("pairs", turn, index, self._available[cell], cell)]

    def pairs(self, n: int) -> np.ndarray:
        """The numbers of the pairs in batch n, in the order of their rows; see `TokenPairs.numbers`.

        Returns: [pairs], or [pairs, 2] if several corpora are mixed: the corpus, from 1, and the number in it.
        """
        chosen, numbers, sizes = self._choose(n, slice(None)).pairs, self._pairs.numbers, self._pairs.sizes
        found = chosen + 1 if numbers is None else numbers[chosen]
        if len(sizes) < 2:
            return found
        return np.stack([np.searchsorted(np.cumsum(sizes), chosen, side="right") + 1, found], axis=1)

    def __getitem__(self, n: int) -> Batch:
        return self.part(n, slice(None))

    def part(self, n: int, rows: slice | np.ndarray) -> Batch:
        """Makes some rows of batch n only, such as those of one process.

        Args:
            n: Number of the batch.
            rows: The rows, ascending. Their numbers in the batch are `Batch.row`.
        """
        chosen, pairs = self._choose(n, rows), self._pairs
        S, T, total = self.shape
        numbers = np.arange(total, dtype=np.int32)[rows]
        source, source_segments = self._rows(
            pairs.source_ids, pairs.source_offsets, chosen, chosen.source_starts, (len(numbers), S)
        )
        target_output, target_segments = self._rows(
            pairs.target_ids, pairs.target_offsets, chosen, chosen.target_starts, (len(numbers), T)
        )
        source_mask, target_mask = source_segments > 0, target_segments > 0
        target_input = np.where(target_mask, np.roll(target_output, 1, axis=1), np.int32(self._ids.pad_id))
        target_input[chosen.row, chosen.target_starts] = self._ids.start_id
        return Batch(
            source,
            source_mask,
            target_input,
            target_output,
            target_mask,
            numbers,
            source_segments,
            target_segments,
        )

    def _rows(
        self, ids: np.ndarray, offsets: np.ndarray, chosen: _Chosen, columns: np.ndarray, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Writes the chosen sentences, each followed by the end id, into padded rows.

        Returns: The ids, and the segment number of each token (0 is padding). Both have the shape (rows, width).
        """
        lengths = offsets[chosen.pairs + 1] - offsets[chosen.pairs]
        total = int(lengths.sum())
        within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows, width = shape
        first = chosen.row * width + columns
        padded = np.full(rows * width, self._ids.pad_id, np.int32)
        segments = np.zeros(rows * width, np.int32)
        at = np.repeat(first, lengths) + within
        padded[at] = ids[np.repeat(offsets[chosen.pairs], lengths) + within]
        segments[at] = np.repeat(chosen.segment, lengths)
        padded[first + lengths] = self._ids.end_id
        segments[first + lengths] = chosen.segment
        return padded.reshape(shape), segments.reshape(shape)


def _spread(count: int, fit: int) -> int:
    """The number of rows per batch that spreads all rows evenly over few batches.

    A large number of rows is rounded to a multiple of 8.
    """
    if fit >= _MANY_ROWS:
        fit -= fit % _ROW_MULTIPLE
    rows = -(-count // -(-count // fit))
    return rows if rows < _MANY_ROWS else rows + -rows % _ROW_MULTIPLE


def check_budget(tokens: int, row_multiple: int, length: int, pack_length: int | None) -> None:
    """Raises InputError unless a batch has room for a row of each part.

    Args:
        tokens: `training.batch_tokens`.
        row_multiple: Number of parts of a batch.
        length: Number of tokens of a row.
        pack_length: The length that rows were to have; None for the longest pair's.
    """
    if row_multiple * length <= tokens:
        return
    if length == pack_length:
        reason = "the packed length"
        advice = ", or lower --training.accumulation-steps or --training.pack-length"
        advice += " (--data.max-length if that is not set)"
    else:
        reason, advice = "the longest pair", ""
    raise InputError(
        f"A batch of {tokens} tokens is too small: {row_multiple} rows (one for each part of the batch) of "
        f"{length} tokens ({reason}) need {row_multiple * length}. Raise --training.batch-tokens{advice}."
    )


@contextmanager
def ahead(batches: Batches, start: int, stop: int, rows: slice | np.ndarray = slice(None)) -> Iterator[Iterator[Batch]]:
    """Makes some rows of the batches from `start` to `stop - 1` ahead in another thread, while the context is open.

    One thread is enough: making a batch takes a small fraction of the time of a training step. grain could do the same,
    but it imports jax, which `transformer.data` must not.

    The thread ends with the context. If a generator ended it, that could happen in any thread, whenever Python collects
    garbage, also in one that holds a lock which is needed to wait for a thread.
    """
    with ThreadPoolExecutor(1, "batches") as executor:
        waiting = deque()

        def made() -> Iterator[Batch]:
            for n in range(start, stop):
                waiting.append(executor.submit(batches.part, n, rows))
                if len(waiting) > _PREFETCH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield made()

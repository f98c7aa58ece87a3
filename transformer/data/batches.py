"""Training batches of one shape, made of packed sentence pairs.

Batch n is a pure function of (pairs, config, seed, n).
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from transformer.config import DataConfig, TokenizerConfig
from transformer.data.corpus import Pairs, Report
from transformer.data.lengths import check_pairs
from transformer.data.packing import pack, row_shape
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.shapes import Batch

_PREFETCH = 4  # number of batches made ahead of the consumer
# Batches of many rows have a multiple of 8. Accelerators compute in tiles, and XLA's tiled transposes on a CPU take ten
# times as long with an odd number of tokens.
_ROW_MULTIPLE, _MANY_ROWS = 8, 32


class TokenPairs(NamedTuple):
    """Token ids of sentence pairs in flat arrays, without start and end ids.

    Source i is `source_ids[source_offsets[i]:source_offsets[i + 1]]`, and likewise for targets.

    Flat arrays are read much faster than a list of lists, and millions of pairs need little memory.
    """

    source_ids: np.ndarray
    source_offsets: np.ndarray
    target_ids: np.ndarray
    target_offsets: np.ndarray

    @property
    def num_pairs(self) -> int:
        return len(self.source_offsets) - 1

    @property
    def source_lengths(self) -> np.ndarray:
        """Number of tokens of each source, including the end token."""
        return np.diff(self.source_offsets) + 1

    @property
    def target_lengths(self) -> np.ndarray:
        """Number of tokens of each target, including the end token."""
        return np.diff(self.target_offsets) + 1


def tokenize(
    pairs: Pairs,
    tokenizer: Tokenizer,
    config: DataConfig,
    report: Report,
    *,
    filter: bool,
    max_length: int | None = None,
) -> TokenPairs:
    """Tokenizes pairs, and drops training pairs that are too long.

    Args:
        pairs: The sentences.
        tokenizer: The tokenizer of the model.
        config: The limits of training pairs, `max_length` and `max_length_ratio`.
        report: Where dropped pairs are counted.
        filter: True for training pairs: those beyond the limits are dropped. False drops none. Since reading drops none
            of these pairs either, an error can name pair n by its line n.
        max_length: Maximum number of tokens per side, including the end token. With `filter`, longer pairs are dropped
            and counted together with those beyond `config.max_length`. Without it they are an error, because the model
            has no positions for them.

    Raises: InputError if every pair is dropped or, without `filter`, if a side has more than `max_length` tokens.
    """
    tokens = TokenPairs(
        *tokenizer.source.encode_flat(pairs.sources, "sources"), *tokenizer.target.encode_flat(pairs.targets, "targets")
    )
    longer = np.maximum(tokens.source_lengths, tokens.target_lengths)
    shorter = np.minimum(tokens.source_lengths, tokens.target_lengths)
    if not filter:
        if max_length is not None:
            advice = "Split that sentence, or train with a larger --model.max-positions."
            files = ", ".join(report.files)
            check_pairs(tokens.source_lengths, tokens.target_lengths, max_length, files, advice)
        return tokens
    keep = longer <= (config.max_length if max_length is None else min(max_length, config.max_length))
    report.drop("too long", int((~keep).sum()))
    if config.max_length_ratio is not None:
        balanced = longer <= config.max_length_ratio * shorter
        report.drop("length ratio", int((keep & ~balanced).sum()))
        keep &= balanced
    if not keep.any():
        raise InputError(
            f"No pair is left to train on. {report} Raise --data.max-length, --training.pack-length or "
            "--data.max-length-ratio, whichever drops the pairs."
        )
    return TokenPairs(
        *_select(tokens.source_ids, tokens.source_offsets, keep),
        *_select(tokens.target_ids, tokens.target_offsets, keep),
    )


def _select(ids: np.ndarray, offsets: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.diff(offsets)
    return ids[np.repeat(keep, lengths)], np.concatenate([offsets[:1], np.cumsum(lengths[keep])])


class _Chosen(NamedTuple):
    """The pairs of one batch, and the row, first columns and segment number of each."""

    pairs: np.ndarray
    row: np.ndarray
    source_starts: np.ndarray
    target_starts: np.ndarray
    segment: np.ndarray


class Batches:
    """An endless sequence of batches of packed rows. Each pair occurs once per epoch.

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

        Raises: InputError if `row_multiple` rows exceed `tokens`.
        """
        self._pairs, self._ids, self._seed = pairs, ids, seed
        source, target = pairs.source_lengths, pairs.target_lengths
        longest = int(max(source.max(), target.max()))
        S, T = row_shape(source, target, longest if pack_length is None else pack_length)
        _check_budget(tokens, row_multiple, max(S, T), pack_length)
        self._layout = pack(source, target, S, T)
        self._filled_rows = _spread(self._layout.num_rows, tokens // max(S, T))
        rows = -(-self._filled_rows // row_multiple) * row_multiple
        self._epoch = lru_cache(maxsize=2)(self._deal)

        self.shape = S, T, rows
        self.per_epoch = -(-self._layout.num_rows // self._filled_rows)
        self.padding = 1 - int(source.sum() + target.sum()) / ((S + T) * rows * self.per_epoch)

    def _deal(self, epoch: int) -> list[_Chosen]:
        """Assigns the pairs to the spaces of the layout, and the rows to batches."""
        generator = None if self._seed is None else np.random.default_rng([self._seed, epoch])
        layout = self._layout
        members, order = np.arange(self._pairs.num_pairs), np.arange(layout.num_rows)
        if generator is not None:
            members, order = generator.permutation(members), generator.permutation(order)
        source, target = self._pairs.source_lengths[members], self._pairs.target_lengths[members]
        pairs = np.empty_like(members)
        pairs[np.lexsort((layout.target_lengths, layout.source_lengths))] = members[np.lexsort((target, source))]
        index = np.empty_like(order)  # index[r] is the position of row r among all rows of the epoch
        index[order] = np.arange(layout.num_rows)
        index = index[layout.row]
        spaces = np.argsort(index, kind="stable")
        first = np.searchsorted(index[spaces], np.arange(0, layout.num_rows, self._filled_rows))
        batches = [
            _Chosen(
                pairs[own],
                index[own] % self._filled_rows,
                layout.source_starts[own],
                layout.target_starts[own],
                layout.segment[own],
            )
            for own in np.split(spaces, first[1:])
        ]
        if generator is not None:  # otherwise the incomplete batch would always be the last one
            batches = [batches[n] for n in generator.permutation(len(batches))]
        return batches

    def __getitem__(self, n: int) -> Batch:
        epoch, index = divmod(n, self.per_epoch)
        chosen, pairs = self._epoch(epoch)[index], self._pairs
        S, T, rows = self.shape
        source, source_segments = self._rows(
            pairs.source_ids, pairs.source_offsets, chosen, chosen.source_starts, (rows, S)
        )
        target_output, target_segments = self._rows(
            pairs.target_ids, pairs.target_offsets, chosen, chosen.target_starts, (rows, T)
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
            np.arange(rows, dtype=np.int32),
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


def _check_budget(tokens: int, row_multiple: int, length: int, pack_length: int | None) -> None:
    if row_multiple * length <= tokens:
        return
    if length == pack_length:
        reason = "the packed length"
        advice = ", or lower --training.accumulation-steps or --training.pack-length"
        advice += " (--data.max-length if that is not set)"
    else:
        reason, advice = "the longest pair", ""
    raise InputError(
        f"A batch of {tokens} tokens is too small: {row_multiple} rows (one for each device and accumulation step) of "
        f"{length} tokens ({reason}) need {row_multiple * length}. Raise --training.batch-tokens{advice}."
    )


def iterate(batches: Batches, start: int, stop: int) -> Generator[Batch, None, None]:
    """Yields the batches from `start` to `stop - 1`, made ahead in another thread.

    One thread is enough: making a batch takes a small fraction of the time of a training step. grain could do the same,
    but it imports jax, which `transformer.data` must not.
    """
    with ThreadPoolExecutor(1, "batches") as executor:
        waiting = deque()
        for n in range(start, stop):
            waiting.append(executor.submit(batches.__getitem__, n))
            if len(waiting) > _PREFETCH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

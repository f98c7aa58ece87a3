"""Sentence pairs as padded batches of few fixed shapes: batch n is a pure function of (pairs, config, seed, n)."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from transformer.config import DataConfig
from transformer.data.corpus import Pairs, Report
from transformer.data.packing import Rows, pack, row_shape
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.shapes import Batch

_PREFETCH = 4  # batches made ahead of the consumer
# A batch of many rows has a multiple of 8: accelerators compute in tiles, and XLA's transposes on a CPU, which it makes
# tile by tile, take ten times as long with an odd number of tokens.
_ROW_MULTIPLE, _MANY_ROWS = 8, 32


class TokenPairs(NamedTuple):
    """Pairs as ids without start or end: source i is `source_ids[source_offsets[i]:source_offsets[i + 1]]`.

    Flat arrays feed batches much faster than a list of lists, and hold millions of pairs in little memory.
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
        """Tokens of each source, with the end id."""
        return np.diff(self.source_offsets) + 1

    @property
    def target_lengths(self) -> np.ndarray:
        """Tokens of each target, with the end id."""
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
    """The ids of all pairs.

    Args:
        pairs: Sentences.
        tokenizer: What cuts them.
        config: Has the limits of training pairs: `max_length` and `max_length_ratio`.
        report: Counts what is dropped here.
        filter: True for training: pairs beyond those limits are dropped. Otherwise none is, nor was in reading, so that
            an error can name pair n by its line n.
        max_length: Without filter, the most tokens (with the end id) a side may have: the model's positions.

    Raises: InputError if every pair is dropped or, without filter, if a side has more than max_length tokens.
    """
    tokens = TokenPairs(*tokenizer.encode_flat(pairs.sources), *tokenizer.encode_flat(pairs.targets))
    longer = np.maximum(tokens.source_lengths, tokens.target_lengths)
    shorter = np.minimum(tokens.source_lengths, tokens.target_lengths)
    if not filter:
        if max_length is not None and (longer > max_length).any():
            first = int(np.argmax(longer > max_length))
            raise InputError(
                f"Pair {first + 1} of {', '.join(report.files)} has {longer[first]} tokens, but the model has "
                f"positions for {max_length}: split that sentence, or train with a larger model.max_positions."
            )
        return tokens
    keep = longer <= config.max_length
    report.drop("too long", int((~keep).sum()))
    if config.max_length_ratio is not None:
        balanced = longer <= config.max_length_ratio * shorter
        report.drop("length ratio", int((keep & ~balanced).sum()))
        keep &= balanced
    if not keep.any():
        raise InputError(f"No pair is left to train on. {report}")
    return TokenPairs(
        *_select(tokens.source_ids, tokens.source_offsets, keep),
        *_select(tokens.target_ids, tokens.target_offsets, keep),
    )


def _select(ids: np.ndarray, offsets: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.diff(offsets)
    return ids[np.repeat(keep, lengths)], np.concatenate([offsets[:1], np.cumsum(lengths[keep])])


def choose_shapes(source_lengths: np.ndarray, target_lengths: np.ndarray, num_shapes: int) -> list[tuple[int, int]]:
    """At most num_shapes shapes (S, T), each covering the ones before it, with the least padding over all pairs.

    Pairs are sorted into buckets by their longer side. The shape of a bucket covers every shorter pair too, so that
    pairs that fill no batch there can move up. Dynamic programming finds the bounds with the least sum of S + T over
    pairs: with as many shapes, much less padding than lengths rounded up to multiples of a number, and hardly more
    than shapes that are free to cross.

    Args:
        source_lengths, target_lengths: Tokens of each pair, with the end id.
        num_shapes: Shapes at the most; each is compiled once.
    """
    lengths, place, counts = np.unique(
        np.maximum(source_lengths, target_lengths), return_inverse=True, return_counts=True
    )
    widths = np.zeros((2, len(lengths)), np.int64)
    np.maximum.at(widths[0], place, source_lengths)
    np.maximum.at(widths[1], place, target_lengths)
    widths = np.maximum.accumulate(widths, axis=1)  # the shape that covers all pairs up to each length
    below = np.cumsum(counts)
    one_bucket = widths.sum(0) * (below - below[:, None])  # [i, j]: pairs longer than lengths[i], in the shape of j
    one_bucket = np.where(one_bucket < 0, np.iinfo(np.int64).max // 2, one_bucket)
    best, cuts = widths.sum(0) * below, []
    for _ in range(min(num_shapes, len(lengths)) - 1):
        padded = best[:, None] + one_bucket
        cuts.append(padded.argmin(axis=0))
        best = padded.min(axis=0)
    ends = [len(lengths) - 1]
    for cut in reversed(cuts):
        ends.append(cut[ends[-1]])
    return [(int(widths[0, i]), int(widths[1, i])) for i in sorted({int(end) for end in ends})]


class _Bucket(NamedTuple):
    """Pairs that share one shape, and how many rows of them a batch has."""

    S: int
    T: int
    rows: int  # of a batch, empty ones included: a multiple of row_multiple
    most: int  # filled rows of a batch
    members: np.ndarray
    num_kept: int  # rows of the members and of what moves up from the buckets below; the others move up
    packing: Rows | None = None  # how the members lie side by side; None: a pair a row

    @property
    def num_batches(self) -> int:
        return -(-self.num_kept // self.most)


class _Chosen(NamedTuple):
    """The pairs of one batch, and where they begin."""

    bucket: _Bucket
    pairs: np.ndarray
    row: np.ndarray
    source_starts: np.ndarray
    target_starts: np.ndarray
    segment: np.ndarray


class Batches:
    """An endless sequence of batches: `batches[n]`, n counted over all epochs, every pair once an epoch.

    Each epoch is shuffled anew, both which pairs meet in a batch and the order of batches, from (seed, epoch) alone.
    Which pairs batch n has, and in which rows, does not depend on row_multiple: a run goes on with the same batches
    when the number of devices changes.
    """

    def __init__(
        self,
        pairs: TokenPairs,
        *,
        tokens: int,
        num_shapes: int,
        row_multiple: int,
        seed: int,
        pad_id: int,
        start_id: int,
        end_id: int,
        pack_length: int | None = None,
        shuffle: bool = True,
    ) -> None:
        """Chooses the shapes and lays out an epoch.

        Args:
            pairs: At least one pair.
            tokens: Padded source tokens, and as many target tokens, of a batch at the most.
            num_shapes: Shapes at the most.
            row_multiple: Rows of every batch are made a multiple of this (devices times accumulation steps) by empty
                rows at the end. With them a batch may exceed `tokens`, by less than row_multiple rows.
            seed: Of the shuffling.
            pad_id, start_id, end_id: Special ids.
            pack_length: Pairs that fit are packed into rows of so many tokens, which takes one of the shapes; None: a
                pair a row.
            shuffle: False keeps the order of pairs and shapes, the same in each epoch.

        Raises: InputError if row_multiple rows of the longest pair, or packed rows, do not fit into tokens.
        """
        self._pairs, self._seed, self._shuffle = pairs, seed, shuffle
        self._pad_id, self._start_id, self._end_id = pad_id, start_id, end_id
        source, target = pairs.source_lengths, pairs.target_lengths
        self._buckets: list[_Bucket] = []
        rest = np.arange(pairs.num_pairs)
        if pack_length is not None:
            _check_budget(tokens, row_multiple, pack_length, "packed row", "training.pack_length")
            S, T = row_shape(source, target, pack_length)
            fits = (source <= S) & (target <= T)
            if num_shapes == 1 and fits.any() and not fits.all():
                raise InputError(
                    f"One shape is not enough: some pairs do not fit into packed rows of {S} source and {T} target "
                    "tokens. Raise training.num_shapes or training.pack_length."
                )
            if fits.any():
                packing = pack(source[fits], target[fits], S, T)
                most, rows = _spread(packing.num_rows, _room(tokens, max(S, T)), row_multiple)
                self._buckets.append(_Bucket(S, T, rows, most, np.flatnonzero(fits), packing.num_rows, packing))
            rest = np.flatnonzero(~fits)
        if len(rest):
            self._buckets += self._buckets_by_length(rest, tokens, num_shapes - len(self._buckets), row_multiple)
        self._epoch = lru_cache(maxsize=2)(self._lay_out)

        used = [bucket for bucket in self._buckets if bucket.num_kept]
        self.shapes = [(bucket.S, bucket.T, bucket.rows) for bucket in used]
        """The shapes: S, T and rows."""
        self.per_epoch = sum(bucket.num_batches for bucket in used)
        """Batches an epoch."""
        padded = sum((bucket.S + bucket.T) * bucket.rows * bucket.num_batches for bucket in used)
        self.padding = 1 - int(source.sum() + target.sum()) / padded
        """Share of all source and target positions that hold no token, empty rows included."""

    def _buckets_by_length(self, members: np.ndarray, tokens: int, num_shapes: int, row_multiple: int) -> list[_Bucket]:
        """A pair a row, pairs of similar length in batches of one shape."""
        source, target = self._pairs.source_lengths[members], self._pairs.target_lengths[members]
        shapes = choose_shapes(source, target, num_shapes)
        _check_budget(tokens, row_multiple, max(shapes[-1]), "longest pair", "data.max_length")
        place = np.searchsorted([max(shape) for shape in shapes], np.maximum(source, target))
        buckets = []
        moved = 0
        for index, (S, T) in enumerate(shapes):
            own = members[place == index]
            count = len(own) + moved
            fit = _room(tokens, max(S, T))
            # Pairs that do not fill a batch move up, unless they would take more room there than a whole batch does
            # here. Those that stay are spread evenly.
            left = count % fit
            moved = left if index + 1 < len(shapes) and left * sum(shapes[index + 1]) < fit * (S + T) else 0
            kept = count - moved
            most, rows = _spread(kept, fit, row_multiple)
            buckets.append(_Bucket(S, T, rows, most, own, kept))
        return buckets

    def _lay_out(self, epoch: int) -> list[_Chosen]:
        """The batches of an epoch."""
        generator = np.random.default_rng([self._seed, epoch])
        batches, moved = [], np.zeros(0, np.int64)
        for bucket in self._buckets:
            if bucket.packing is not None:
                batches += self._deal(bucket, bucket.packing, generator)
                continue
            pool = np.concatenate([moved, bucket.members])
            if self._shuffle:
                pool = generator.permutation(pool)
            kept, moved = pool[: bucket.num_kept], pool[bucket.num_kept :]
            for start in range(0, len(kept), bucket.most):
                chosen = kept[start : start + bucket.most]
                zeros = np.zeros_like(chosen)
                batches.append(_Chosen(bucket, chosen, np.arange(len(chosen)), zeros, zeros, zeros + 1))
        if self._shuffle:
            batches = [batches[place] for place in generator.permutation(len(batches))]
        return batches

    def _deal(self, bucket: _Bucket, packing: Rows, generator: np.random.Generator) -> list[_Chosen]:
        """Packed batches: each slot gets a pair of its lengths, and the rows are dealt out to batches."""
        members, order = bucket.members, np.arange(packing.num_rows)
        if self._shuffle:
            members, order = generator.permutation(members), generator.permutation(order)
        source, target = self._pairs.source_lengths[members], self._pairs.target_lengths[members]
        pairs = np.empty_like(members)
        pairs[np.lexsort((packing.target_lengths, packing.source_lengths))] = members[np.lexsort((target, source))]
        place = np.empty_like(order)  # of each row among all rows of the epoch
        place[order] = np.arange(packing.num_rows)
        place = place[packing.row]
        slots = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[slots], np.arange(0, packing.num_rows, bucket.most))
        return [
            _Chosen(
                bucket,
                pairs[own],
                place[own] % bucket.most,
                packing.source_starts[own],
                packing.target_starts[own],
                packing.segment[own],
            )
            for own in np.split(slots, starts[1:])
        ]

    def __getitem__(self, n: int) -> Batch:
        epoch, place = divmod(n, self.per_epoch)
        chosen, pairs = self._epoch(epoch)[place], self._pairs
        source, source_segments = self._rows(
            pairs.source_ids, pairs.source_offsets, chosen, chosen.source_starts, chosen.bucket.S
        )
        target_output, target_segments = self._rows(
            pairs.target_ids, pairs.target_offsets, chosen, chosen.target_starts, chosen.bucket.T
        )
        source_mask, target_mask = source_segments > 0, target_segments > 0
        target_input = np.where(target_mask, np.roll(target_output, 1, axis=1), np.int32(self._pad_id))
        target_input[chosen.row, chosen.target_starts] = self._start_id
        row = np.arange(chosen.bucket.rows, dtype=np.int32)
        batch = Batch(source, source_mask, target_input, target_output, target_mask, row)
        if chosen.bucket.packing is None:
            return batch
        return batch._replace(source_segments=source_segments, target_segments=target_segments)

    def _rows(
        self, ids: np.ndarray, offsets: np.ndarray, chosen: _Chosen, columns: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The chosen sentences, each with the end id, in padded rows; and each token's place in its row, 0 at padding.

        Both have shape [rows, width].
        """
        lengths = offsets[chosen.pairs + 1] - offsets[chosen.pairs]
        total = int(lengths.sum())
        within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        first = chosen.row * width + columns
        padded = np.full(chosen.bucket.rows * width, self._pad_id, np.int32)
        segments = np.zeros(chosen.bucket.rows * width, np.int32)
        at = np.repeat(first, lengths) + within
        padded[at] = ids[np.repeat(offsets[chosen.pairs], lengths) + within]
        segments[at] = np.repeat(chosen.segment, lengths)
        padded[first + lengths] = self._end_id
        segments[first + lengths] = chosen.segment
        return padded.reshape(-1, width), segments.reshape(-1, width)


def _room(tokens: int, length: int) -> int:
    """Rows of a length that a batch has room for; many are a multiple of eight."""
    fit = tokens // length
    return fit if fit < _MANY_ROWS else fit - fit % _ROW_MULTIPLE


def _spread(count: int, fit: int, row_multiple: int) -> tuple[int, int]:
    """Filled rows and rows of a batch, so that `count` rows, of which `fit` have room, are spread evenly.

    Many filled rows are made a multiple of eight, as those of `_room` are, so that they still fit.
    """
    most = -(-count // -(-count // fit)) if count else fit
    if most >= _MANY_ROWS:
        most += -most % _ROW_MULTIPLE
    return most, -(-most // row_multiple) * row_multiple


def _check_budget(tokens: int, row_multiple: int, length: int, what: str, option: str) -> None:
    if row_multiple * length > tokens:
        rows = f"{row_multiple} rows (devices times accumulation steps) of the {what}"
        raise InputError(
            f"A batch of {tokens} tokens is too small: {rows} need {row_multiple * length}. Raise "
            f"training.batch_tokens, or lower {option} or training.accumulation_steps."
        )


def iterate(batches: Batches, start: int, stop: int) -> Generator[Batch, None, None]:
    """`batches[start]` to `batches[stop - 1]`, made ahead of time in another thread.

    One thread is enough: it makes a batch in a small part of the time that a training step takes. (grain could do the
    same, but imports jax, which this room stays free of.)
    """
    with ThreadPoolExecutor(1, "batches") as executor:
        waiting = deque()
        for n in range(start, stop):
            waiting.append(executor.submit(batches.__getitem__, n))
            if len(waiting) > _PREFETCH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

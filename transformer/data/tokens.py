"""Token ids of sentence pairs in flat arrays."""

from typing import NamedTuple

import numpy as np

from transformer.config import DataConfig
from transformer.data.lengths import check_pairs
from transformer.data.pairs import Pairs, Report
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError


class TokenPairs(NamedTuple):
    """Token ids of sentence pairs in flat arrays, without start and end ids.

    Source i is `source_ids[source_offsets[i]:source_offsets[i + 1]]`, and likewise for targets.

    Flat arrays are read much faster than a list of lists, millions of pairs need little memory, and the arrays may be
    memory-mapped files.
    """

    source_ids: np.ndarray
    source_offsets: np.ndarray
    target_ids: np.ndarray
    target_offsets: np.ndarray
    numbers: np.ndarray | None = None
    """The line or row that each pair was read from, from 1. None if no pair was dropped: pair i has number i + 1."""
    sizes: tuple[int, ...] = ()
    """Number of pairs of each corpus, if several are mixed. Their pairs are one after the other."""

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

    def select(self, keep: np.ndarray) -> "TokenPairs":
        """The pairs of one corpus where `keep` is True."""
        numbers = np.arange(1, len(keep) + 1) if self.numbers is None else self.numbers
        source = _select(self.source_ids, self.source_offsets, keep)
        return TokenPairs(*source, *_select(self.target_ids, self.target_offsets, keep), numbers[keep])


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
    tokens = encode(pairs, tokenizer)
    if filter:
        kept = within_limits(tokens, config, report, max_length)
        require_pairs(kept.num_pairs, report)
        return kept
    if max_length is not None:
        advice = "Split that sentence, or train with a larger --model.max-positions."
        check_pairs(tokens.source_lengths, tokens.target_lengths, max_length, ", ".join(report.files), advice)
    return tokens


def encode(pairs: Pairs, tokenizer: Tokenizer) -> TokenPairs:
    """Tokenizes all pairs."""
    source = tokenizer.source.encode_flat(pairs.sources, "sources")
    return TokenPairs(*source, *tokenizer.target.encode_flat(pairs.targets, "targets"))


def within_limits(tokens: TokenPairs, config: DataConfig, report: Report, max_length: int | None) -> TokenPairs:
    """Drops training pairs beyond the limits of `tokenize`, of which perhaps none is left."""
    longer = np.maximum(tokens.source_lengths, tokens.target_lengths)
    shorter = np.minimum(tokens.source_lengths, tokens.target_lengths)
    keep = longer <= longest(config, max_length)
    report.drop("too long", int((~keep).sum()))
    if config.max_length_ratio is not None:
        with np.errstate(over="ignore"):  # an infinite bound keeps every pair
            balanced = longer <= config.max_length_ratio * shorter
        report.drop("length ratio", int((keep & ~balanced).sum()))
        keep &= balanced
    return tokens if keep.all() else tokens.select(keep)


def longest(config: DataConfig, max_length: int | None) -> int:
    """Tokens of the longest side that a training pair may have."""
    return config.max_length if max_length is None else min(max_length, config.max_length)


def require_pairs(number: int, report: Report) -> None:
    """Raises InputError unless a pair is left to train on."""
    if not number:
        raise InputError(
            f"No pair is left to train on. {report} Raise --data.max-length, --training.pack-length or "
            "--data.max-length-ratio, whichever drops the pairs."
        )


def _select(ids: np.ndarray, offsets: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.diff(offsets)
    return ids[np.repeat(keep, lengths)], np.concatenate([offsets[:1], np.cumsum(lengths[keep])])

"""What a tokenizer is. `tokenizer_bpe.py` and `tokenizer_marian.py` have the two kinds.

A `Tokenizer` has a `Vocabulary` for each side, which is the same one if the vocabulary is joint.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transformer.config.data import Normalization
from transformer.data.normalization import normalize, origins
from transformer.data.text import check_text
from transformer.interruption import checked
from transformer.stages import counted

# Texts that are encoded at once. A library's own objects need far more memory than the ids that they hold.
_TEXTS = 20_000


class TokenizedText(NamedTuple):
    """The tokens of a text in readable form, and the words that they belong to."""

    text: str
    """The given text."""
    tokens: list[str]
    """Each token without the space before it. Tokens that hold only some bytes of a character are shown as the
    character and a fraction ("€ 1/3" is the first of three). A lone space is shown as "␣"."""
    words: list[str]
    """The words and punctuation marks that the tokens belong to."""
    word_of: list[int]
    """The index in `words` of each token's word."""


class Vocabulary(ABC):
    """The tokens of one side, source or target.

    Encoding never produces a special id, not even for text that spells one ("</s>"). Decoding leaves special ids out.

    Attributes:
        normalization: The value of `data.normalization`.
        pad_id, start_id, end_id: The special ids. No token has the pad id or the start id if they are at least `size`.
        size: Number of tokens in the vocabulary, including the special ones.
        suppressed: Ids that are never generated, besides the pad id and the start id.
    """

    normalization: Normalization
    pad_id: int
    start_id: int
    end_id: int
    size: int
    suppressed: tuple[int, ...] = ()

    @abstractmethod
    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes normalized texts as token ids."""

    @abstractmethod
    def _decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Decodes sequences of token ids without special ids."""

    @abstractmethod
    def _spans(self, normalized: str) -> tuple[list[tuple[int, int]], list[int | None]]:
        """The start and end of each token in a normalized text, and the number of its word.

        The space before a token is not part of it.
        """

    @abstractmethod
    def spellings(self) -> list[str]:
        """The tokens as their file spells them, each once, in the order of their ids."""

    @abstractmethod
    def single_ids(self, word: str) -> list[int]:
        """The ids of all tokens that consist of this word only, in ascending order.

        Most vocabularies have one token for the word at the start of a text or after a space, and another for the same
        letters inside a word.
        """

    def normalize(self, text: str) -> str:
        """Normalizes a text as `encode` does; see `normalization.normalize`."""
        return normalize(text, self.normalization)

    def encode(self, text: str) -> list[int]:
        """Encodes a text as token ids, without start or end id.

        Raises: InputError if the text is not a string or has an unpaired surrogate.
        """
        check_text(text, "The text")
        return self._encode([self.normalize(text)])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes each text as token ids, without start or end id.

        Raises: InputError, naming the text by its number, if one is not a string or has an unpaired surrogate.
        """
        for number, text in enumerate(texts, start=1):
            check_text(text, f"Text {number}")
        return self._encode([self.normalize(text) for text in texts])

    def encode_flat(self, texts: Sequence[str], unit: str = "texts") -> tuple[np.ndarray, np.ndarray]:
        """Encodes texts as one flat array of token ids.

        The ids of text i are `ids[offsets[i]:offsets[i + 1]]`.

        Args:
            texts: The texts, which need not be normalized.
            unit: Name of the texts in reports of the progress, in the plural.

        Returns: The ids (int32), and the offsets (int64, one more than there are texts).
        """
        parts, lengths = [], [np.zeros(1, np.int64)]
        starts = range(0, len(texts), _TEXTS)
        known = len(starts) > 1  # one part of many is not the progress of all
        for start in counted(checked(starts), len(texts), unit, size=_TEXTS) if known else checked(starts):
            rows = self.encode_batch(texts[start : start + _TEXTS])
            lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
            parts.append(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths[-1].sum())))
        return np.concatenate([np.zeros(0, np.int32), *parts]), np.cumsum(np.concatenate(lengths))

    def decode_batch(self, sequences: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
        """Decodes each sequence of token ids as text. Special ids are left out."""
        special = {self.pad_id, self.start_id, self.end_id}
        return self._decode([[int(index) for index in sequence if index not in special] for sequence in sequences])

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Decodes each token id separately, for display.

        Special ids become `<pad>`, `<s>` and `</s>`.
        """
        names = {self.start_id: "<s>", self.end_id: "</s>", self.pad_id: "<pad>"}
        numbers = [int(index) for index in ids]
        texts = iter(self._decode([[index] for index in numbers if index not in names]))
        return [names[index] if index in names else next(texts).strip() for index in numbers]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The start and end of each token in the text before normalization.

        The space before a token is not part of it.
        """
        check_text(text, "The text")
        typed, (spans, _) = origins(text, self.normalization), self._spans(self.normalize(text))
        ends = [0, *(end for _, end in typed)]
        return [(typed[start][0], ends[end]) if start < end else (ends[end], ends[end]) for start, end in spans]

    def tokenize(self, text: str) -> TokenizedText:
        """Splits a text into its tokens in readable form, and their words.

        The tokens correspond to the ids of `encode`.
        """
        check_text(text, "The text")
        normalized = self.normalize(text)
        spans, word_ids = self._spans(normalized)
        tokens = []
        for (start, end), same in groupby(spans):
            shown, count = normalized[start:end].rstrip() or "␣", len(list(same))
            tokens += [shown] if count == 1 else [f"{shown} {number}/{count}" for number in range(1, count + 1)]
        words, word_of = [], []
        for word, (_, members) in enumerate(groupby(zip(word_ids, spans, strict=True), lambda pair: pair[0])):
            parts = [span for _, span in members]
            words.append(normalized[parts[0][0] : parts[-1][1]].strip() or "␣")
            word_of += [word] * len(parts)
        return TokenizedText(text, tokens, words, word_of)


class Tokenizer(ABC):
    """The vocabularies of a model, its special ids and the normalization of text.

    Attributes:
        source: The vocabulary of the source.
        target: The vocabulary of the target; the same object if the vocabulary is joint.
        pad_id, start_id, end_id: The special ids, of both sides.
        normalization: The value of `data.normalization`.
    """

    source: Vocabulary
    target: Vocabulary
    pad_id: int
    start_id: int
    end_id: int
    normalization: Normalization

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 in hex of the special ids and of the files that `save` writes."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Writes the `tokenizer.json`, and beside it the files that it names."""

"""Joint byte-level BPE (section 5.1): any text to ids and back, exactly."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from transformer.config import TokenizerConfig
from transformer.config.data import Normalization
from transformer.data.normalization import normalize, origins
from transformer.data.text import check_text
from transformer.errors import InputError
from transformer.files import write_whole
from transformer.interruption import checked

# Without a decision of ours, `tokenizers` warns at every fork (orbax, subprocesses) after its threads have run.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

_NUM_BYTES = 256
_CHUNK = 20_000  # texts encoded at a time: the library's own objects weigh far more than the ids they hold


class Pieces(NamedTuple):
    """A text cut into tokens, as text to look at."""

    text: str
    """All of it."""
    tokens: list[str]
    """Each token without the space before it. A token that is a part of a character is the character with a count:
    "€ 1/3" is the first of its three. Of a space alone a "␣" is shown."""
    words: list[str]
    """The words that the tokens are parts of, and punctuation."""
    word_of: list[int]
    """The place in `words` of each token's word."""


class Tokenizer:
    """A `tokenizer.json` together with the ids of padding, start and end, and the normalization of what it encodes.

    The special ids never come out of text, not even out of text that spells them ("</s>"), and vanish in decoding.
    """

    def __init__(self, text: str, config: TokenizerConfig, normalization: Normalization = "none") -> None:
        """Args: the content of a `tokenizer.json`, the special ids, and `data.normalization`."""
        self._text = text
        self.normalization: Normalization = normalization
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        # A file from elsewhere may ask for truncation, padding or special ids: all three belong to `batches`.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as the text that they are
        self.pad_id, self.start_id, self.end_id = config.pad_id, config.start_id, config.end_id
        self.size = max(self._tokenizer.get_vocab().values()) + 1

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocabulary_size: int,
        config: TokenizerConfig,
        normalization: Normalization = "none",
    ) -> "Tokenizer":
        """Learns a byte-level BPE of `vocabulary_size` pieces, special ids included; the same texts give the same file.

        Args:
            texts: Sentences of both languages.
            vocabulary_size: Number of pieces to reach.
            config: The special ids.
            normalization: What happens to a text before it is tokenized, here and later.

        Raises: InputError if vocabulary_size has no room for the 256 bytes and the special ids, or is larger than the
            text allows (merges stop where no two pieces stand side by side twice).
        """
        specials = {config.start_id: "<s>", config.end_id: "</s>", config.pad_id: "<pad>"}
        smallest = _NUM_BYTES + len(specials)
        if vocabulary_size < smallest:
            raise InputError(
                f"model.vocabulary_size must be at least {smallest} (256 bytes and {len(specials)} special ids), but "
                f"is {vocabulary_size}."
            )
        tokenizer = tokenizers.Tokenizer(models.BPE())
        # A space put before each text, and taken away in decoding, lets the first word share its piece with the
        # same word further on. The space is added whatever the text begins with, so the way back is exact.
        tokenizer.normalizer = normalizers.Prepend(" ")
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size - len(specials),
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator((normalize(text, normalization) for text in checked(texts)), trainer)

        learned = json.loads(tokenizer.to_str())["model"]
        pieces = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
        reached = len(pieces) + len(specials)
        if reached < vocabulary_size:
            raise InputError(
                f"model.vocabulary_size={vocabulary_size} is a vocabulary larger than the text allows: {reached} "
                f"pieces were found. Set model.vocabulary_size to {reached} or less, or give more training text."
            )
        # The trainer puts special tokens first; here they take the ids of the config.
        for index, piece in sorted(specials.items()):
            pieces.insert(index, piece)
        merges = [tuple(merge) for merge in learned["merges"]]
        tokenizer.model = models.BPE({piece: index for index, piece in enumerate(pieces)}, merges)
        tokenizer.add_special_tokens([specials[index] for index in sorted(specials)])
        written = json.dumps(json.loads(tokenizer.to_str()), indent=1, ensure_ascii=False) + "\n"
        return cls(written, config, normalization)

    @classmethod
    def load(
        cls,
        path: str | Path,
        config: TokenizerConfig,
        vocabulary_size: int,
        normalization: Normalization = "none",
    ) -> "Tokenizer":
        """Reads a `tokenizer.json`: one that `save` wrote, or any other of the Hugging Face format.

        The file does not have the normalization, which belongs to the run's config.

        Raises: InputError if the file is missing or not readable, if its size is not vocabulary_size, or if a special
            id of the config is not one of the file's special tokens.
        """
        try:
            tokenizer = cls(Path(path).read_bytes().decode("utf-8-sig"), config, normalization)
        except OSError as error:
            raise InputError(f"The tokenizer {path} cannot be read: {error.strerror}.") from error
        except Exception as error:  # the library raises nothing narrower for what is not a tokenizer
            raise InputError(f"{path} is not a valid tokenizer.json ({error}).") from error
        if tokenizer.size != vocabulary_size:
            raise InputError(
                f"The tokenizer {path} has {tokenizer.size} pieces, but model.vocabulary_size is {vocabulary_size}: "
                f"set it to {tokenizer.size}."
            )
        tokenizer._check_special_ids(path)
        return tokenizer

    def _check_special_ids(self, path: str | Path) -> None:
        added = self._tokenizer.get_added_tokens_decoder()
        special = {index: token.content for index, token in added.items() if token.special}
        for name in ("pad_id", "start_id", "end_id"):
            index = getattr(self, name)
            if index not in special:
                known = ", ".join(f"{content} = {number}" for number, content in sorted(special.items()))
                raise InputError(
                    f"tokenizer.{name} is {index}, which is not a special token of {path}, so that decoding would lose "
                    f"text. Its special tokens are: {known or 'none'}."
                )

    def save(self, path: str | Path) -> None:
        """Writes the `tokenizer.json` that `load` reads, byte for byte as it was read or trained."""
        write_whole(Path(path), self._text.encode())

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the special ids and of what `save` writes."""
        ids = f"{self.pad_id} {self.start_id} {self.end_id}\n"
        return hashlib.sha256((ids + self._text).encode()).hexdigest()

    def normalize(self, text: str) -> str:
        """A text as it is encoded; see `normalization.normalize`."""
        return normalize(text, self.normalization)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without start or end id.

        Raises: InputError if it is not a string, or has an unpaired surrogate.
        """
        check_text(text, "The text")
        return self._tokenizer.encode(self.normalize(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without start or end id.

        Raises: InputError if one is not a string, or has an unpaired surrogate.
        """
        for number, text in enumerate(texts, start=1):
            check_text(text, f"Text {number}")
        normalized = [self.normalize(text) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(normalized, add_special_tokens=False)]

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts behind one another: text i has `ids[offsets[i]:offsets[i + 1]]`.

        Returns: ids (int32) and offsets (int64, one more than texts).
        """
        parts, lengths = [], [np.zeros(1, np.int64)]
        for start in checked(range(0, len(texts), _CHUNK)):
            rows = self.encode_batch(texts[start : start + _CHUNK])
            lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
            parts.append(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths[-1].sum())))
        return np.concatenate([np.zeros(0, np.int32), *parts]), np.cumsum(np.concatenate(lengths))

    def single_ids(self, word: str) -> list[int]:
        """The ids of the tokens that are this word and nothing more, ascending.

        Most vocabularies have one token for a word that begins a text or comes after a space, and another for the same
        letters inside a word. Where a text begins without a space, files from elsewhere may have a third.
        """
        word = self.normalize(word)
        cuts = (self._tokenizer.encode(text, add_special_tokens=False).ids for text in (word, f" {word}"))
        found = {ids[0] for ids in cuts if len(ids) == 1}
        if isinstance(self._tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):  # else tokens may be written otherwise
            written = "".join(piece for piece, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(word))
            if (inner := self._tokenizer.token_to_id(written)) is not None:
                found.add(inner)
        return sorted(found - {self.pad_id, self.start_id, self.end_id})

    def decode_batch(self, sequences: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
        """The text of each sequence of ids; special ids are left out."""
        special = {self.pad_id, self.start_id, self.end_id}
        kept = [[int(index) for index in sequence if index not in special] for sequence in sequences]
        return self._tokenizer.decode_batch(kept, skip_special_tokens=True)

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Each id by itself as text to look at; special ids as `<pad>`, `<s>` and `</s>`."""
        names = {self.start_id: "<s>", self.end_id: "</s>", self.pad_id: "<pad>"}
        numbers = [int(index) for index in ids]
        texts = self._tokenizer.decode_batch([[index] for index in numbers], skip_special_tokens=True)
        return [names[index] if index in names else text.strip() for index, text in zip(numbers, texts, strict=True)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token's characters start and end in a text as it was given, without the space before them."""
        typed, (_, spans, _) = origins(text, self.normalization), self._spans(text)
        ends = [0, *(end for _, end in typed)]
        return [(typed[start][0], ends[end]) if start < end else (ends[end], ends[end]) for start, end in spans]

    def cut(self, text: str) -> Pieces:
        """The tokens of a text, normalized, as `encode` numbers them, and the words that they are parts of."""
        normalized, spans, word_ids = self._spans(text)
        tokens = []
        for (start, end), same in groupby(spans):
            shown, count = normalized[start:end].rstrip() or "␣", len(list(same))
            tokens += [shown] if count == 1 else [f"{shown} {number}/{count}" for number in range(1, count + 1)]
        words, word_of = [], []
        for word, (_, members) in enumerate(groupby(zip(word_ids, spans, strict=True), lambda pair: pair[0])):
            parts = [span for _, span in members]
            words.append(normalized[parts[0][0] : parts[-1][1]].strip() or "␣")
            word_of += [word] * len(parts)
        return Pieces(text, tokens, words, word_of)

    def _spans(self, text: str) -> tuple[str, list[tuple[int, int]], list[int | None]]:
        """The normalized text, where each token starts and ends in it without the space before it, and its word."""
        check_text(text, "The text")
        normalized = self.normalize(text)
        encoding = self._tokenizer.encode(normalized, add_special_tokens=False)
        spans = [(end - len(normalized[start:end].lstrip()), end) for start, end in encoding.offsets]
        return normalized, spans, encoding.word_ids

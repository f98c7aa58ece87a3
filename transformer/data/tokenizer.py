"""The joint byte-level BPE tokenizer (section 5.1), which is lossless."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence, Sized
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
from transformer.stages import counted

# Unless this is set, `tokenizers` warns at every fork (by orbax or a subprocess) after its threads have run.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

_NUM_BYTES = 256
# Texts that are encoded at once. The library's own objects need far more memory than the ids that they hold.
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


class Tokenizer:
    """A `tokenizer.json` with its special ids and the normalization of text.

    Encoding never produces a special id, not even for text that spells one ("</s>"). Decoding leaves special ids out.

    Attributes:
        normalization: The value of `data.normalization`.
        pad_id, start_id, end_id: The special ids.
        size: Number of tokens in the vocabulary, including the special ones.
    """

    def __init__(self, text: str, config: TokenizerConfig, normalization: Normalization = "none") -> None:
        """Takes the text of a `tokenizer.json`, the special ids and the normalization."""
        self._text = text
        self.normalization: Normalization = normalization
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        # Another program's file may configure truncation, padding or special ids. All three are done in `batches`.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # encode text that spells a special token as text
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
        """Learns a byte-level BPE vocabulary. The same texts always give the same file.

        Args:
            texts: Sentences of both languages.
            vocabulary_size: Number of tokens to learn, including the 256 bytes and the special ids.
            config: The special ids.
            normalization: How text is normalized before it is tokenized, during training and afterwards.

        Raises: InputError if `vocabulary_size` is too small for the 256 bytes and the special ids. Also if it is larger
            than the text allows: merging stops when no pair of adjacent tokens occurs twice.
        """
        specials = {config.start_id: "<s>", config.end_id: "</s>", config.pad_id: "<pad>"}
        smallest = _NUM_BYTES + len(specials)
        if vocabulary_size < smallest:
            raise InputError(
                f"--model.vocabulary-size must be at least {smallest} (256 bytes and {len(specials)} special ids), but "
                f"is {vocabulary_size}."
            )
        tokenizer = tokenizers.Tokenizer(models.BPE())
        # A space is prepended to each text and removed in decoding. So the first word has the same token as the same
        # word later in a text. Adding the space to every text, whatever it begins with, keeps decoding exact.
        tokenizer.normalizer = normalizers.Prepend(" ")
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size - len(specials),
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        total = len(texts) if isinstance(texts, Sized) else None
        given = counted(checked(texts), total, "sentences read")
        tokenizer.train_from_iterator((normalize(text, normalization) for text in given), trainer)

        learned = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
        reached = len(tokens) + len(specials)
        if reached < vocabulary_size:
            raise InputError(
                f"The training text yields only {reached} BPE tokens, fewer than --model.vocabulary-size "
                f"{vocabulary_size}. Set it to {reached} or less, or give more training text."
            )
        # The trainer would put special tokens first. Here they get the ids of the config.
        for index, token in sorted(specials.items()):
            tokens.insert(index, token)
        merges = [tuple(merge) for merge in learned["merges"]]
        tokenizer.model = models.BPE({token: index for index, token in enumerate(tokens)}, merges)
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
        """Reads a `tokenizer.json`, from `save` or in the Hugging Face format.

        Args:
            path: The file.
            config: The special ids.
            vocabulary_size: Number of tokens that the file must have.
            normalization: How text is normalized before it is tokenized. The file does not contain it.

        Raises: InputError if the file is missing, is not a tokenizer, or does not have `vocabulary_size` tokens. Also
            if a special id of the config is not one of the file's special tokens.
        """
        try:
            tokenizer = cls(Path(path).read_bytes().decode("utf-8-sig"), config, normalization)
        except OSError as error:
            raise InputError(f"The tokenizer {path} cannot be read: {error.strerror}.") from error
        except Exception as error:  # the library raises no narrower class
            raise InputError(f"{path} is not a valid tokenizer.json ({error}).") from error
        if tokenizer.size != vocabulary_size:
            raise InputError(
                f"The tokenizer {path} has {tokenizer.size} tokens, but --model.vocabulary-size is {vocabulary_size}. "
                f"Set it to {tokenizer.size}."
            )
        tokenizer._check_special_ids(path)
        return tokenizer

    def _check_special_ids(self, path: str | Path) -> None:
        added = self._tokenizer.get_added_tokens_decoder()
        special = {index: token.content for index, token in added.items() if token.special}
        for name in ("pad_id", "start_id", "end_id"):
            index = getattr(self, name)
            if index not in special:
                option = f"--tokenizer.{name.replace('_', '-')}"
                known = ", ".join(f"{content} = {number}" for number, content in sorted(special.items()))
                raise InputError(
                    f"{option} is {index}, which is not a special token of {path}. Decoding would lose text. The "
                    f"special tokens of that file are: {known or 'none'}."
                )

    def save(self, path: str | Path) -> None:
        """Writes the `tokenizer.json` byte for byte as it was read or learned."""
        write_whole(Path(path), self._text.encode())

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of the special ids and of the file that `save` writes."""
        ids = f"{self.pad_id} {self.start_id} {self.end_id}\n"
        return hashlib.sha256((ids + self._text).encode()).hexdigest()

    def normalize(self, text: str) -> str:
        """Normalizes a text as `encode` does; see `normalization.normalize`."""
        return normalize(text, self.normalization)

    def encode(self, text: str) -> list[int]:
        """Encodes a text as token ids, without start or end id.

        Raises: InputError if the text is not a string or has an unpaired surrogate.
        """
        check_text(text, "The text")
        return self._tokenizer.encode(self.normalize(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes each text as token ids, without start or end id.

        Raises: InputError, naming the text by its number, if one is not a string or has an unpaired surrogate.
        """
        for number, text in enumerate(texts, start=1):
            check_text(text, f"Text {number}")
        normalized = [self.normalize(text) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(normalized, add_special_tokens=False)]

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
        for start in counted(checked(starts), len(texts), unit, size=_TEXTS):
            rows = self.encode_batch(texts[start : start + _TEXTS])
            lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
            parts.append(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths[-1].sum())))
        return np.concatenate([np.zeros(0, np.int32), *parts]), np.cumsum(np.concatenate(lengths))

    def single_ids(self, word: str) -> list[int]:
        """The ids of all tokens that consist of this word only, in ascending order.

        Most vocabularies have one token for the word at the start of a text or after a space, and another for the same
        letters inside a word. A tokenizer of another program may have a third, for a text that begins without a space.
        """
        word = self.normalize(word)
        encodings = (self._tokenizer.encode(text, add_special_tokens=False).ids for text in (word, f" {word}"))
        found = {ids[0] for ids in encodings if len(ids) == 1}
        if isinstance(self._tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):  # others spell tokens differently
            written = "".join(part for part, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(word))
            if (inner := self._tokenizer.token_to_id(written)) is not None:
                found.add(inner)
        return sorted(found - {self.pad_id, self.start_id, self.end_id})

    def decode_batch(self, sequences: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
        """Decodes each sequence of token ids as text. Special ids are left out."""
        special = {self.pad_id, self.start_id, self.end_id}
        kept = [[int(index) for index in sequence if index not in special] for sequence in sequences]
        return self._tokenizer.decode_batch(kept, skip_special_tokens=True)

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Decodes each token id separately, for display.

        Special ids become `<pad>`, `<s>` and `</s>`.
        """
        names = {self.start_id: "<s>", self.end_id: "</s>", self.pad_id: "<pad>"}
        numbers = [int(index) for index in ids]
        texts = self._tokenizer.decode_batch([[index] for index in numbers], skip_special_tokens=True)
        return [names[index] if index in names else text.strip() for index, text in zip(numbers, texts, strict=True)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The start and end of each token in the text before normalization.

        The space before a token is not part of it.
        """
        typed, (_, spans, _) = origins(text, self.normalization), self._spans(text)
        ends = [0, *(end for _, end in typed)]
        return [(typed[start][0], ends[end]) if start < end else (ends[end], ends[end]) for start, end in spans]

    def tokenize(self, text: str) -> TokenizedText:
        """Splits a text into its tokens in readable form, and their words.

        The tokens correspond to the ids of `encode`.
        """
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
        return TokenizedText(text, tokens, words, word_of)

    def _spans(self, text: str) -> tuple[str, list[tuple[int, int]], list[int | None]]:
        """The normalized text, and the start and end and the word of each token.

        The space before a token is not part of it.
        """
        check_text(text, "The text")
        normalized = self.normalize(text)
        encoding = self._tokenizer.encode(normalized, add_special_tokens=False)
        spans = [(end - len(normalized[start:end].lstrip()), end) for start, end in encoding.offsets]
        return normalized, spans, encoding.word_ids

"""The joint byte-level BPE tokenizer (section 5.1), which is lossless."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from transformer.config import TokenizerConfig
from transformer.config.data import Normalization
from transformer.data.normalization import normalize
from transformer.data.tokenizer import Tokenizer, Vocabulary
from transformer.errors import InputError
from transformer.files import LARGEST_JSON, read_regular, write_whole
from transformer.interruption import checked
from transformer.stages import counted

# Unless this is set, `tokenizers` warns at every fork (by orbax or a subprocess) after its threads have run.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

_NUM_BYTES = 256


class BpeTokenizer(Tokenizer, Vocabulary):
    """A `tokenizer.json` with its special ids and the normalization of text.

    It is the vocabulary of both sides.

    Attributes:
        text: The text of the `tokenizer.json`.
    """

    def __init__(self, text: str, config: TokenizerConfig, normalization: Normalization = "none") -> None:
        """Takes the text of a `tokenizer.json`, the special ids and the normalization."""
        self.text = text
        self.source = self.target = self
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
    ) -> "BpeTokenizer":
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
    ) -> "BpeTokenizer":
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
            tokenizer = cls(read_regular(path, LARGEST_JSON).decode("utf-8-sig"), config, normalization)
        except OSError as error:
            raise InputError(f"The tokenizer {path} cannot be read: {error.strerror}.") from error
        except Exception as error:  # the library raises no narrower class
            raise InputError(f"{path} is not a valid tokenizer.json ({error!s:.200}).") from error
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
        write_whole(Path(path), self.text.encode())

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of the special ids and of the file that `save` writes."""
        ids = f"{self.pad_id} {self.start_id} {self.end_id}\n"
        return hashlib.sha256((ids + self.text).encode()).hexdigest()

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast([*texts], add_special_tokens=False)]

    def _decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        return self._tokenizer.decode_batch([[*sequence] for sequence in sequences], skip_special_tokens=True)

    def spellings(self) -> list[str]:
        """The tokens as their file spells them, each once, in the order of their ids."""
        known = {index: token for token, index in self._tokenizer.get_vocab().items()}
        return [known.get(index, f"<unused {index}>") for index in range(self.size)]

    def single_ids(self, word: str) -> list[int]:
        # A tokenizer of another program may have a third token for a word, for a text that begins without a space.
        word = self.normalize(word)
        encodings = (self._tokenizer.encode(text, add_special_tokens=False).ids for text in (word, f" {word}"))
        found = {ids[0] for ids in encodings if len(ids) == 1}
        if isinstance(self._tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):  # others spell tokens differently
            written = "".join(part for part, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(word))
            if (inner := self._tokenizer.token_to_id(written)) is not None:
                found.add(inner)
        return sorted(found - {self.pad_id, self.start_id, self.end_id})

    def _spans(self, normalized: str) -> tuple[list[tuple[int, int]], list[int | None]]:
        encoding = self._tokenizer.encode(normalized, add_special_tokens=False)
        spans = [(end - len(normalized[start:end].lstrip()), end) for start, end in encoding.offsets]
        return spans, encoding.word_ids

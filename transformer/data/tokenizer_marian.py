"""Marian's tokenizer, which has one or two SentencePiece models.

A token's id is SentencePiece's own, or is looked up in a vocabulary file: Marian's `vocab.yml`, or Hugging Face's
`vocab.json`. The `tokenizer.json` of such a tokenizer names the files of each side, which are beside it.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer.config import TokenizerConfig
from transformer.config.data import Normalization
from transformer.data.sentencepiece_models import load_processor, pieces
from transformer.data.tokenizer import Tokenizer, Vocabulary
from transformer.errors import InputError, require
from transformer.files import read_json, read_regular, write_whole

FORMAT = "marian"
END, UNKNOWN = "</s>", "<unk>"
SPACE = "▁"
_LANGUAGE = re.compile(r"\s*(>>[^<\s]+<<)")
# A line of vocab.yml, which is not quite YAML: a key that is plain, in single or in double quotes, and the id.
_ENTRY = re.compile(r"""(?:\? )?("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|\S(?:.*?\S)??)(?:\n)? *: +(\d+) *(?:\n|$)""")
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_ESCAPED = {"0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b"}


class SideFiles(NamedTuple):
    """The files of one side.

    Attributes:
        model: Name of the SentencePiece model.
        vocabulary: Name of the file that gives each piece its id. None if the ids are SentencePiece's own.
    """

    model: str
    vocabulary: str | None = None


class MarianTokenizer(Tokenizer):
    """One or two SentencePiece models, with the files that they were read from.

    Attributes:
        files: The contents of all files, by name.
        suppressed: Tokens that are never generated. Marian does not generate `<unk>`.
        source_files: Names of the files of the source.
        target_files: Names of the files of the target.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        source: SideFiles,
        target: SideFiles,
        config: TokenizerConfig,
        normalization: Normalization = "none",
        suppressed: Sequence[str] = (UNKNOWN,),
    ) -> None:
        """Takes the files, their names, the special ids, the normalization, and the tokens never to be generated.

        Raises: InputError if a file is missing or invalid, a name is a path, a special id of the config is not that of
            the files, or the package sentencepiece is not installed.
        """
        self.files, self.source_files, self.target_files = dict(files), source, target
        self.pad_id, self.start_id, self.end_id = config.pad_id, config.start_id, config.end_id
        self.normalization: Normalization = normalization
        self.suppressed = tuple(suppressed)
        self.source = self._vocabulary(source, config)
        self.target = self.source if source == target else self._vocabulary(target, config)

    def _vocabulary(self, names: SideFiles, config: TokenizerConfig) -> "SentencePieceVocabulary":
        for name in names:
            if name is not None and name not in self.files:
                raise InputError(f"The tokenizer lacks the file {name}. Restore it.")
        ids = None if names.vocabulary is None else read_vocabulary(self.files[names.vocabulary], names.vocabulary)
        model = self.files[names.model]
        return SentencePieceVocabulary(model, names.model, config, self.normalization, ids, self.suppressed)

    @classmethod
    def load(
        cls, path: str | Path, config: TokenizerConfig, sizes: tuple[int, int], normalization: Normalization = "none"
    ) -> "MarianTokenizer":
        """Reads a `tokenizer.json` of `save`, and the files beside it.

        Args:
            path: The file.
            config: The special ids.
            sizes: Number of tokens that the vocabulary of the source and that of the target must have.
            normalization: How text is normalized before it is tokenized.

        Raises: InputError if a file is missing or invalid, or the vocabularies do not fit the arguments. Also if the
            package sentencepiece is not installed.
        """
        path = Path(path)
        try:
            content = read_json(path)
            source, target = (SideFiles(**content[side]) for side in ("source", "target"))
            names = {name for name in (*source, *target) if name is not None}
            suppressed = tuple(content["suppressed"])
            if any(
                not isinstance(name, str) or Path(name).name != name for name in {*names, source.model, target.model}
            ):
                raise ValueError("a file has a path")
            if not all(isinstance(token, str) for token in suppressed):
                raise ValueError("a token that is never generated is no text")
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} does not name the files of a tokenizer ({error!s:.200}).") from error
        try:
            files = {name: read_regular(path.parent / name) for name in sorted(names)}
        except OSError as error:
            raise InputError(f"The tokenizer {path} cannot be read: {error.filename}: {error.strerror}.") from error
        tokenizer = cls(files, source, target, config, normalization, suppressed)
        tokenizer.require_sizes(sizes, path)
        return tokenizer

    def require_sizes(self, sizes: tuple[int, int], path: Path) -> None:
        """Raises InputError unless the vocabularies of source and target, read from `path`, have these sizes."""
        for side, vocabulary, size in zip(("source", "target"), (self.source, self.target), sizes, strict=True):
            require(
                vocabulary.size == size,
                f"The {side} vocabulary of {path} has {vocabulary.size} tokens, but the model has {size}.",
            )

    @property
    def _text(self) -> str:
        sides = {"source": self.source_files._asdict(), "target": self.target_files._asdict()}
        content = {"format": FORMAT, **sides, "suppressed": self.suppressed}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of the special ids and of the files that `save` writes."""
        digest = hashlib.sha256(f"{self.pad_id} {self.start_id} {self.end_id}\n{self._text}".encode())
        for name in sorted(self.files):
            digest.update(hashlib.sha256(self.files[name]).digest())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes the `tokenizer.json`, and beside it the files as they were read."""
        path = Path(path)
        for name, content in self.files.items():
            write_whole(path.parent / name, content)
        write_whole(path, self._text.encode())


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model, and perhaps other ids for its pieces.

    A text may begin with a language such as `>>fra<<`. Where the vocabulary has a token for it, that token is the
    first, and the rest of the text follows.

    Attributes:
        unknown_id: The id of every piece that the vocabulary lacks.
    """

    def __init__(
        self,
        model: bytes,
        name: str,
        config: TokenizerConfig,
        normalization: Normalization = "none",
        ids: Mapping[str, int] | None = None,
        suppressed: Sequence[str] = (),
    ) -> None:
        """Takes the bytes of a SentencePiece model, its name, the ids of its pieces, and those never to be generated.

        Without `ids`, they are SentencePiece's own.

        Raises: InputError if this is no SentencePiece model, the end id of the config is not that of the vocabulary, or
            the package sentencepiece is not installed.
        """
        self.processor = load_processor(model, name)
        self.pad_id, self.start_id, self.end_id = config.pad_id, config.start_id, config.end_id
        self.normalization: Normalization = normalization
        own = pieces(self.processor, name)
        self.ids = dict(own if ids is None else ids)
        self.pieces = {index: piece for piece, index in self.ids.items()}
        self.size = max(self.pieces, default=-1) + 1
        require(
            self.ids.get(END) == self.end_id and UNKNOWN in self.ids,
            f"The vocabulary of {name} must have {END} with the id {self.end_id}, and {UNKNOWN}, but has "
            f"{END} = {self.ids.get(END)} and {UNKNOWN} = {self.ids.get(UNKNOWN)}.",
        )
        self.unknown_id = self.ids[UNKNOWN]
        self.suppressed = tuple(self.ids[piece] for piece in suppressed if piece in self.ids)
        self._languages = any(_LANGUAGE.fullmatch(piece) for piece in self.ids)

    def _split_language(self, text: str) -> tuple[str | None, int]:
        """The language that a text begins with, if it is a token, and where the rest of the text begins."""
        match = _LANGUAGE.match(text) if self._languages else None
        return (match[1], match.end()) if match and match[1] in self.ids else (None, 0)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        split = [self._split_language(text) for text in texts]
        rests = [text[start:] for text, (_, start) in zip(texts, split, strict=True)]
        rows = self.processor.encode(rests, out_type=str) if rests else []
        languages = [[] if language is None else [self.ids[language]] for language, _ in split]
        return [[*own, *map(self._id, pieces)] for own, pieces in zip(languages, rows, strict=True)]

    def _id(self, piece: str) -> int:
        index = self.ids.get(piece, self.unknown_id)
        return self.unknown_id if index in (self.pad_id, self.start_id, self.end_id) else index

    def _decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        pieces = [[self.pieces.get(index, UNKNOWN) for index in sequence] for sequence in sequences]
        texts = self.processor.decode(pieces) if pieces else []
        return [text.replace(SPACE, " ").strip() for text in texts]  # of pieces that only the vocabulary has

    def _spans(self, normalized: str) -> tuple[list[tuple[int, int]], list[int | None]]:
        language, first = self._split_language(normalized)
        found = [] if language is None else [(0, first)]
        offsets = self.processor.encode(normalized[first:], return_type="offset_mapping")["offsets"]
        found += [(first + begin, first + end) for begin, end in offsets]
        spans, words, word, before = list[tuple[int, int]](), list[int | None](), 0, ""
        for begin, end in found:
            start = end - len(normalized[begin:end].lstrip())
            shown, follows_space = normalized[start:end], bool(spans) and start > spans[-1][1]
            word += follows_space or bool(before and shown and _is_letter(before[-1]) != _is_letter(shown[0]))
            spans.append((start, end))
            words.append(word)
            before = shown
        return spans, words

    def spellings(self) -> list[str]:
        """The tokens as their file spells them, each once, in the order of their ids."""
        return [self.pieces.get(index, f"<unused {index}>") for index in range(self.size)]

    def single_ids(self, word: str) -> list[int]:
        """The ids of all tokens that consist of this word only, in ascending order."""
        written = self.processor.normalize(self.normalize(word)).removeprefix(SPACE)
        found = {self.ids[piece] for piece in (written, SPACE + written) if piece in self.ids}
        return sorted(found - {self.pad_id, self.start_id, self.end_id})


def read_vocabulary(content: bytes, name: str) -> dict[str, int]:
    """Reads the ids of pieces from Marian's `vocab.yml` or Hugging Face's `vocab.json`.

    Args:
        content: The content of the file.
        name: Its name, which tells the format.

    Raises: InputError if it is no such file, or gives an id twice.
    """
    try:
        text = content.decode("utf-8-sig")
        ids = _checked(json.loads(text)) if name.endswith(".json") else dict(_entries(text))
    except ValueError as error:  # also of UTF-8 and JSON
        raise InputError(f"{name} is not a vocabulary: {error}.") from error
    if len({*ids.values()}) != len(ids):
        raise InputError(f"{name} is not a vocabulary: two of its tokens have the same id.")
    return ids


def _checked(ids: Any) -> dict[str, int]:
    if not isinstance(ids, dict) or not all(type(index) is int and index >= 0 for index in ids.values()):
        raise ValueError("it does not give an id for each token")
    return ids


def _entries(text: str) -> Iterator[tuple[str, int]]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _ENTRY.match(text, position)
        if match is None:
            raise ValueError(f"it has the line {text[position:].splitlines()[0][:60]!r}")
        position = match.end()
        yield _key(match[1]), int(match[2])


def _key(written: str) -> str:
    if written[0] == written[-1] == "'" and len(written) > 1:
        return written[1:-1].replace("''", "'")
    if written[0] == written[-1] == '"' and len(written) > 1:
        return _ESCAPE.sub(lambda match: _unescaped(match[1]), written[1:-1])
    return written


def _unescaped(code: str) -> str:
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, code)


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"

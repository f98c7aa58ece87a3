"""Sentence pairs from local files and hub datasets, read strictly: a corpus that is not in order is an error."""

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformer.config import DataConfig
from transformer.errors import InputError

Split = Literal["train", "validation", "test"]


class Pairs(NamedTuple):
    """Sentences and their translations: `targets[i]` translates `sources[i]`."""

    sources: list[str]
    targets: list[str]


@dataclass
class Report:
    """What was read, what was kept, and what was dropped and why."""

    files: tuple[str, ...]
    """The files, or the hub dataset with its split."""
    read: int
    """Pairs read."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Pairs dropped, by reason."""

    @property
    def kept(self) -> int:
        """Pairs that are left."""
        return self.read - sum(self.dropped.values())

    def drop(self, reason: str, count: int) -> None:
        """Counts pairs that are dropped for a reason."""
        if count:
            self.dropped[reason] = count

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the run directory."""
        return {**asdict(self), "files": list(self.files), "kept": self.kept}

    def __str__(self) -> str:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        return (
            f"{self.read:,} pairs read from {', '.join(self.files)}; {self.kept:,} kept"
            f"{f'; dropped: {dropped}' if dropped else ''}."
        )


def read_pairs(config: DataConfig, split: Split) -> tuple[Pairs, Report]:
    """The sentence pairs of a split, from local files or from the hub.

    Raises: InputError if the split is not given or anything in it is not in order (see `read_files`).
    """
    given: tuple[str, ...] = getattr(config, split)
    if not given:
        raise InputError(f"No {split} pairs are given: name them with --data.{split}.")
    # A validation or test set is scored on all of its references, so nothing is ever dropped from those.
    drop_empty = split == "train" and config.drop_empty
    if config.hub is None:
        pairs, report = read_files(given, config, drop_empty=drop_empty)
    else:
        pairs, report = _read_hub(config.hub, given[0], config, drop_empty)
    if split == "train" and config.drop_duplicates:
        unique = list(dict.fromkeys(zip(*pairs, strict=True)))
        report.drop("duplicates", len(pairs.sources) - len(unique))
        pairs = _unzip(unique)
    return pairs, report


def read_files(files: tuple[str, ...], config: DataConfig, *, drop_empty: bool = False) -> tuple[Pairs, Report]:
    """The sentence pairs of two files (a Moses pair) or of one. Text stays as it is, neither normalized nor stripped.

    A byte-order mark at the start of a file is no text, and left out.

    Args:
        files: Source file and target file, one sentence a line; or one .tsv, .jsonl, .json or .parquet file of pairs.
            Each may be compressed: .gz, .xz, .zst.
        config: Names the languages and columns.
        drop_empty: Drop and count pairs with an empty side.

    Raises: InputError, naming file and line, if a file is missing, damaged, or of an unknown kind; not UTF-8; has `\\r`
        in its lines, another number of lines than its partner, a missing or superfluous column, a missing or
        non-string side, an empty side (unless drop_empty); or if no pair is left.
    """
    if not all(files):
        raise InputError("The name of a file of sentence pairs is empty: give its path.")
    if len(files) == 2:
        pairs = Pairs(read_lines(files[0]), read_lines(files[1]))
        if len(pairs.sources) != len(pairs.targets):
            raise InputError(
                f"{files[0]} has {len(pairs.sources)} lines, but {files[1]} has {len(pairs.targets)}: each line of the "
                "one must be the translation of the same line of the other."
            )
        return _without_empty(pairs, files, "line", drop_empty)
    (path,) = files
    match _suffix(path):
        case ".tsv":
            pairs, unit = _read_tsv(path, config.tsv_columns), "line"
        case ".jsonl" | ".json":
            pairs, unit = _pairs_of_rows(_jsonl_rows(path), path, "line", config), "line"
        case ".parquet":
            pairs, unit = _pairs_of_rows(_parquet_rows(path, config), path, "row", config), "row"
        case _:
            raise InputError(
                f"{path}: pairs in one file must be .tsv, .jsonl, .json or .parquet, or any of these with .gz, .xz or "
                ".zst. For text with one sentence a line give two files, source and target."
            )
    return _without_empty(pairs, (path, path), unit, drop_empty)


def read_lines(path: str) -> list[str]:
    """The lines of a text file, compressed or not; only `\\n` ends a line.

    Raises: InputError if the file is missing, damaged, not UTF-8, or has a `\\r`.
    """
    return decode_lines(_read_bytes(path), path)


def decode_lines(data: bytes, name: str) -> list[str]:
    """The lines of text; only `\\n` ends a line: U+2028, U+0085, vertical tab and form feed stay inside it.

    A byte-order mark at the start is left out.

    Args:
        data: UTF-8.
        name: What errors call it.

    Raises: InputError, naming the line, if data are not UTF-8 or have a `\\r`.
    """
    # Elsewhere a lone \r often counts as a line end: the same file would have other line numbers there, and its
    # sentences other partners.
    if (position := data.find(b"\r")) >= 0:
        raise InputError(
            f"{name}, line {_line_number(data, position)} has a carriage return (\\r): convert the file to Unix line "
            "ends, and replace a \\r inside a sentence by a space."
        )
    return _split_lines(data, name)


def _split_lines(data: bytes, name: str) -> list[str]:
    try:
        lines = data.decode("utf-8-sig").split("\n")  # without a byte-order mark
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, line {_line_number(error.object, error.start)} is not UTF-8 ({error.reason}): convert the "
            "file to UTF-8."
        ) from error
    return lines if lines[-1] else lines[:-1]


def _line_number(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _read_bytes(path: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        match Path(path).suffix:
            case ".gz":
                return gzip.decompress(data)
            case ".xz":
                return lzma.decompress(data)
            case ".zst":
                return _decompress_zst(data, path)
            case _:
                return data
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} cannot be decompressed ({error}): it is damaged, or of another format.") from error


def _decompress_zst(data: bytes, path: str) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise InputError(f"Reading {path} needs the zstandard module: pip install zstandard.") from error
    frames = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            frames.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        if not frame.eof:  # the module itself takes a truncated file for a whole one
            raise EOFError("the file is truncated")
        data = frame.unused_data
    return b"".join(frames)


def _suffix(path: str) -> str:
    """The suffix that names the format: `.tsv` of `pairs.tsv.gz`."""
    plain = Path(path)
    return (plain.with_suffix("") if plain.suffix in (".gz", ".xz", ".zst") else plain).suffix


def _read_tsv(path: str, columns: tuple[int, int]) -> Pairs:
    rows = [line.split("\t") for line in read_lines(path)]
    width = max(*columns, len(rows[0]) - 1 if rows else 0) + 1
    for number, row in enumerate(rows, 1):
        # As many columns everywhere: a tab inside a sentence would cut it short without a word.
        if len(row) != width:
            raise InputError(
                f"{path}, line {number} has {len(row)} columns where {width} are expected (as many as in line 1, and "
                f"data.tsv_columns={columns} among them)."
            )
    return Pairs([row[columns[0]] for row in rows], [row[columns[1]] for row in rows])


def _jsonl_rows(path: str) -> Iterator[Any]:
    for number, line in enumerate(_split_lines(_read_bytes(path), path), 1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:  # not JSON; a number too long, or lists too deep, for Python
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise InputError(
                f"{path}, line {number} is not a JSON object ({reason}): one object a line is needed."
            ) from error


def _parquet_rows(path: str, config: DataConfig) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(_read_bytes(path)))
        wanted = {"translation", config.source_language, config.target_language}
        for part in file.iter_batches(columns=[name for name in file.schema_arrow.names if name in wanted]):
            yield from part.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file ({error}).") from error


def _read_hub(hub: str, split: str, config: DataConfig, drop_empty: bool) -> tuple[Pairs, Report]:
    import datasets  # takes a second to import, and most runs read local files

    name = " ".join(part for part in (hub, config.hub_config, split) if part)
    try:
        rows = datasets.load_dataset(hub, config.hub_config, split=split)
    except Exception as error:  # network, names, authorization and formats have no common class
        raise InputError(f"The hub dataset {name} cannot be loaded: {type(error).__name__}: {error}") from error
    return _without_empty(_pairs_of_rows(rows, name, "row", config), (name, name), "row", drop_empty)


def _pairs_of_rows(rows: Iterable[Any], name: str, unit: str, config: DataConfig) -> Pairs:
    """Of `{"translation": {"en": ..., "de": ...}}` or `{"en": ..., "de": ...}`."""
    languages = (config.source_language, config.target_language)
    pairs: list[tuple[str, str]] = []
    for number, row in enumerate(rows, 1):
        nested = isinstance(row, dict) and "translation" in row
        sides = row["translation"] if nested else row
        if not isinstance(sides, dict):
            what = ': "translation"' if nested else ""
            raise InputError(
                f"{name}, {unit} {number}{what} is {_kind(sides)}, but must be an object with "
                f"{' and '.join(map(repr, languages))}."
            )
        for language in languages:
            if language not in sides:
                raise InputError(
                    f"{name}, {unit} {number} has no {language!r}: {' and '.join(map(repr, languages))} are needed, at "
                    'the top or within "translation". Set data.source_language and data.target_language to its names.'
                )
            if not isinstance(sides[language], str):
                raise InputError(
                    f"{name}, {unit} {number}: {language!r} must be a string, but is {_kind(sides[language])}."
                )
            if not _encodable(sides[language]):
                raise InputError(f"{name}, {unit} {number}: {language!r} has half a surrogate pair, which is no text.")
        pairs.append((sides[languages[0]], sides[languages[1]]))
    return _unzip(pairs)


def _kind(value: Any) -> str:
    """What a value is, in few words."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else f"{value!r:.80}"


def _encodable(text: str) -> bool:
    """False where a JSON escape such as "\\ud800" has made a string that UTF-8 cannot write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_empty(pairs: Pairs, names: tuple[str, ...], unit: str, drop_empty: bool) -> tuple[Pairs, Report]:
    """The pairs, those with an empty side dropped or refused, and the report; `names` has the file of each side."""
    report = Report(files=tuple(dict.fromkeys(names)), read=len(pairs.sources))
    kept: list[tuple[str, str]] = []
    for number, pair in enumerate(zip(*pairs, strict=True), 1):
        empty = [not text.strip() for text in pair]
        if not any(empty):
            kept.append(pair)
        elif not drop_empty:
            side = empty.index(True)
            raise InputError(
                f"{names[side]}, {unit} {number} has an empty {('source', 'target')[side]}: mend it, or take "
                "the pair out (of training pairs, data.drop_empty does so)."
            )
    report.drop("empty", report.read - len(kept))
    if not kept:
        raise InputError(f"There is no sentence pair to use. {report}")
    return _unzip(kept), report


def _unzip(pairs: list[tuple[str, str]]) -> Pairs:
    return Pairs([source for source, _ in pairs], [target for _, target in pairs])

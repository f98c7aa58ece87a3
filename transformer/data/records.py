"""Sentence pairs from records with keys (JSONL, parquet and data sets)."""

import io
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from transformer.config import DataConfig
from transformer.data.pairs import ANTECEDENTS, CHUNK, TAGS, Antecedent, Chunk, Pairs
from transformer.data.raw_files import COMPRESSIONS, check_ratio, open_file, read_bytes
from transformer.data.text import check_text, read_raw_lines
from transformer.errors import InputError
from transformer.stages import counted


def read_jsonl(path: str, _: DataConfig) -> Iterator[Any]:
    """Yields the JSON value of each line of a file.

    Raises: InputError if the file cannot be read (see `read_blocks`), or if a line is not UTF-8 or not JSON.
    """
    for number, line in enumerate(counted(read_raw_lines(path), None, "lines"), 1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:  # not JSON, a number too long for Python, or too deep nesting
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise InputError(
                f"{path}, line {number} is not a JSON object ({reason}). Each line must be one JSON object."
            ) from error


def read_parquet(path: str, config: DataConfig) -> Iterator[dict[str, Any]]:
    """Yields the rows of a parquet file, with only the columns of interest.

    A compressed file is decompressed in memory, because the format has its index at the end.

    Raises: InputError if the file cannot be read (see `read_blocks`) or is not parquet.
    """
    import pyarrow
    import pyarrow.parquet

    wanted = {"translation", config.source_language, config.target_language, config.split_key, ANTECEDENTS}
    wanted.add(config.tags or TAGS)
    compressed = Path(path).suffix.lower() in COMPRESSIONS
    try:
        with io.BytesIO(read_bytes(path)) if compressed else open_file(path) as opened:
            file = pyarrow.parquet.ParquetFile(opened)
            columns = [name for name in file.schema_arrow.names if name in wanted]
            parts = _batches(file, columns, path, opened.seek(0, io.SEEK_END))
            yield from counted((row for part in parts for row in part.to_pylist()), file.metadata.num_rows, "rows")
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # text need not be UTF-8 in parquet
        raise InputError(f"{path} is not a readable parquet file ({error}).") from error


def _batches(file: Any, columns: Sequence[str], path: str, packed: int) -> Iterator[Any]:
    """The rows of a parquet file in small batches, whose size is checked: a long text may stand for any number."""
    unpacked = 0
    for part in file.iter_batches(batch_size=256, columns=columns):
        unpacked += part.nbytes
        check_ratio(path, packed, unpacked)
        yield part


class Format(NamedTuple):
    """A file format whose records name their source and target by keys or columns."""

    read: Callable[[str, DataConfig], Iterable[Any]]
    """Yields the records of the file at a path."""
    unit: str
    """The word for a record in error messages."""


FORMATS = {
    ".jsonl": Format(read_jsonl, "line"),
    ".json": Format(read_jsonl, "line"),
    ".parquet": Format(read_parquet, "row"),
}
"""Formats by file suffix. `to_pairs` turns their records into sentence pairs."""


def to_pairs(
    records: Iterable[Any], config: DataConfig, *, name: str, unit: str, split: str | None = None
) -> Iterator[Chunk]:
    """Converts records to sentence pairs.

    Records look like `{"translation": {"en": ..., "de": ...}}` or `{"en": ..., "de": ...}`.

    Args:
        records: All records of a file or data set.
        config: The keys of the languages, tags and split.
        name: Name of the file or data set in error messages.
        unit: Name of a record in error messages, "line" or "row".
        split: Value of `config.split_key` that selects records. None selects all records.

    Yields: The pairs, and the number of each pair's record, counted from 1.

    Raises: InputError, naming the record, if a record is not an object, lacks a key, or has a value of another type.
    """
    numbered = enumerate(records, 1)
    while part := [*islice(numbered, CHUNK)]:
        sources, targets, tags, antecedents, numbers = [], [], [], [], array("q")
        for number, record in part:
            where = f"{name}, {unit} {number}"
            if split is not None and _split(record, config, where) != split:
                continue
            source, target = _sides(record, config, where)
            sources.append(source)
            targets.append(target)
            tags.append(_tags(record, config, where))
            antecedents.append(_antecedents(record))
            numbers.append(number)
        tagged = config.tags is not None or any(tags)
        pairs = Pairs(sources, targets, tags if tagged else None, antecedents if any(antecedents) else None)
        yield Chunk(pairs, numbers)


def _split(record: Any, config: DataConfig, where: str) -> Any:
    """The name of the split that a record belongs to."""
    if not isinstance(record, dict) or config.split_key not in record:
        raise InputError(
            f"{where} has no {config.split_key!r}, which must name the split of the pair. Set --data.split-key to the "
            "key that names it in this file."
        )
    return record[config.split_key]


def _sides(record: Any, config: DataConfig, where: str) -> tuple[str, str]:
    """The source and target of a record."""
    languages = (config.source_language, config.target_language)
    nested = isinstance(record, dict) and "translation" in record
    sides = record["translation"] if nested else record
    if not isinstance(sides, dict):
        what = ': "translation"' if nested else ""
        raise InputError(
            f"{where}{what} is {_kind(sides)}, but must be an object with {' and '.join(map(repr, languages))}."
        )
    for language in languages:
        if language not in sides:
            raise InputError(
                f"{where} has no {language!r}. Each record needs {' and '.join(map(repr, languages))}, at the top "
                'level or within "translation". If the file uses other keys, set --data.source-language and '
                "--data.target-language to them."
            )
        if not isinstance(sides[language], str):
            raise InputError(f"{where}: {language!r} must be a string, but is {_kind(sides[language])}.")
        check_text(sides[language], f"{where}: {language!r}")  # JSON can escape a lone surrogate, such as "\ud800"
    return sides[languages[0]], sides[languages[1]]


def _tags(record: dict[str, Any], config: DataConfig, where: str) -> tuple[str, ...]:
    """The tags of a record.

    A value of another type is an error only if `data.tags` names its key.
    """
    tags = record.get(config.tags or TAGS)
    if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
        return tuple(tags)
    if config.tags is None:
        return ()
    raise InputError(f"{where}: {config.tags!r} (--data.tags) must be a list of strings, but is {_kind(tags)}.")


def _antecedents(record: dict[str, Any]) -> tuple[Antecedent, ...]:
    """The antecedents of a record.

    Values of another form are ignored, because the key may mean something else.
    """
    found, given = [], record.get(ANTECEDENTS)
    for one in given if isinstance(given, list) else ():
        match one:
            case {"pronoun": str(pronoun), "noun": str(noun), "nouns": list(nouns)} if noun in nouns and one.get(
                "owned"
            ) in (None, *nouns):
                found.append(Antecedent(pronoun, noun, tuple(nouns), one.get("owned")))
    return tuple(found)


def _kind(value: Any) -> str:
    """A short description of a value for error messages."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else f"{value!r:.80}"

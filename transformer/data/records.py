"""Records with keys (JSONL, parquet, Hugging Face datasets) as sentence pairs; what is not in order is an error."""

import io
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from transformer.config import DataConfig
from transformer.data.pairs import ANTECEDENTS, TAGS, Antecedent, Pairs
from transformer.data.text import check_text, read_bytes, split_lines
from transformer.errors import InputError


def read_jsonl(path: str, _: DataConfig) -> Iterator[Any]:
    """The value of each line.

    Raises: InputError if the file cannot be read (see `read_bytes`), or a line is not JSON.
    """
    for number, line in enumerate(split_lines(read_bytes(path), path), 1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:  # not JSON; a number too long, or lists too deep, for Python
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise InputError(
                f"{path}, line {number} is not a JSON object ({reason}): one object a line is needed."
            ) from error


def read_parquet(path: str, config: DataConfig) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, without columns that the config has no use for.

    Raises: InputError if the file cannot be read (see `read_bytes`), or is not parquet.
    """
    import pyarrow
    import pyarrow.parquet

    wanted = {"translation", config.source_language, config.target_language, config.split_key, ANTECEDENTS}
    wanted.add(config.tags or TAGS)
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(read_bytes(path)))
        for part in file.iter_batches(columns=[name for name in file.schema_arrow.names if name in wanted]):
            yield from part.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file ({error}).") from error


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
) -> tuple[Pairs, Sequence[int]]:
    """The pairs of records like `{"translation": {"en": ..., "de": ...}}` or `{"en": ..., "de": ...}`.

    Args:
        records: What a file or data set has, all of it.
        config: Names the keys.
        name: What errors call the file or data set.
        unit: What errors call a record: "line" or "row".
        split: Take only the records whose `config.split_key` has this value; None takes all.

    Returns: The pairs, and the number of each one's record, counted from 1.

    Raises: InputError, naming the record, if one is no object or lacks a key, or a value is of another kind.
    """
    sources, targets, tags, antecedents, numbers = [], [], [], [], array("Q")
    for number, record in enumerate(records, 1):
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
    return Pairs(sources, targets, tags if tagged else None, antecedents if any(antecedents) else None), numbers


def _split(record: Any, config: DataConfig, where: str) -> Any:
    """The split that a record says it belongs to."""
    if not isinstance(record, dict) or config.split_key not in record:
        raise InputError(
            f"{where} has no {config.split_key!r}, which names its split. Set data.split_key to the key that does."
        )
    return record[config.split_key]


def _sides(record: Any, config: DataConfig, where: str) -> tuple[str, str]:
    """Source and target of a record."""
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
                f"{where} has no {language!r}: {' and '.join(map(repr, languages))} are needed, at the top or within "
                '"translation". Set data.source_language and data.target_language to its names.'
            )
        if not isinstance(sides[language], str):
            raise InputError(f"{where}: {language!r} must be a string, but is {_kind(sides[language])}.")
        check_text(sides[language], f"{where}: {language!r}")  # a JSON escape such as "\ud800" is no character
    return sides[languages[0]], sides[languages[1]]


def _tags(record: dict[str, Any], config: DataConfig, where: str) -> tuple[str, ...]:
    """The tags of a record; those under the usual key only if they are tags, since nobody has asked for them."""
    tags = record.get(config.tags or TAGS)
    if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
        return tuple(tags)
    if config.tags is None:
        return ()
    raise InputError(f"{where}: {config.tags!r} (data.tags) must be a list of strings, but is {_kind(tags)}.")


def _antecedents(record: dict[str, Any]) -> tuple[Antecedent, ...]:
    """What a record says of its pronouns; nothing if it says so in another form, since nobody has asked for them."""
    found, given = [], record.get(ANTECEDENTS)
    for one in given if isinstance(given, list) else ():
        match one:
            case {"pronoun": str(pronoun), "noun": str(noun), "nouns": list(nouns)} if noun in nouns and one.get(
                "owned"
            ) in (None, *nouns):
                found.append(Antecedent(pronoun, noun, tuple(nouns), one.get("owned")))
    return tuple(found)


def _kind(value: Any) -> str:
    """What a value is, in few words."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else f"{value!r:.80}"

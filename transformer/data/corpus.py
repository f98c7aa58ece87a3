"""Sentence pairs from local files, Hugging Face datasets and the embedded corpus; what is not in order is an error."""

import dataclasses
import io
import json
import typing
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transformer.config import DataConfig
from transformer.data import grammar
from transformer.data.grammar import Split
from transformer.data.text import read_bytes, read_lines, split_lines
from transformer.errors import InputError


class Pairs(NamedTuple):
    """Sentences and their translations: `targets[i]` translates `sources[i]`."""

    sources: list[str]
    targets: list[str]
    tags: list[tuple[str, ...]] | None = None
    """What each pair has been tagged with, to break scores down; None where the corpus has no tags."""

    def select(self, kept: list[int]) -> "Pairs":
        """The pairs at these places."""
        return Pairs(
            [self.sources[place] for place in kept],
            [self.targets[place] for place in kept],
            None if self.tags is None else [self.tags[place] for place in kept],
        )


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
    """The sentence pairs of a split, from local files, from the hub or from the embedded corpus.

    Raises: InputError if the split is not given or anything in it is not in order (see `read_files`).
    """
    given: tuple[str, ...] = getattr(config, split)
    if split != "test":
        config = dataclasses.replace(config, tags=None)  # only scores are broken down by them
    # A validation or test set is scored on all of its references, so nothing is ever dropped from those.
    drop_empty = split == "train" and config.drop_empty
    if config.corpus == "grammar":
        sentences = grammar.generate(split)
        pairs = Pairs(*map(list, zip(*sentences, strict=True)))
        report = Report(files=("the embedded grammar",), read=len(sentences))
    elif not given:
        raise InputError(f"No {split} pairs are given: name them with --data.{split}.")
    elif config.corpus == "files":
        pairs, report = read_files(given, config, drop_empty=drop_empty)
    else:
        pairs, report = _read_hub(given[0], config, drop_empty)
    if split == "train" and config.drop_duplicates:
        first: dict[tuple[str, str], int] = {}
        for place, pair in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
            first.setdefault(pair, place)
        report.drop("duplicates", len(pairs.sources) - len(first))
        pairs = pairs.select(list(first.values()))
    return pairs, report


def splits(config: DataConfig) -> tuple[Split, ...]:
    """The splits that a config has."""
    every: tuple[Split, ...] = typing.get_args(Split)
    return every if config.corpus == "grammar" else tuple(split for split in every if getattr(config, split))


def read_parallel(source: str, target: str) -> Pairs:
    """Line by line the pairs of two files, empty lines too.

    Raises: InputError if a file cannot be read (see `read_lines`), or one has more lines than the other.
    """
    pairs = Pairs(read_lines(source), read_lines(target))
    if len(pairs.sources) != len(pairs.targets):
        raise InputError(
            f"{source} has {len(pairs.sources)} lines, but {target} has {len(pairs.targets)}: each line of the "
            "one must be the translation of the same line of the other."
        )
    return pairs


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
    if config.tags is not None and (len(files) == 2 or _suffix(files[0]) == ".tsv"):
        raise InputError(f"{files[0]} has no tags, but data.tags is {config.tags}: they need JSONL or parquet.")
    if len(files) == 2:
        return _without_empty(read_parallel(*files), files, "line", drop_empty)
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
    for number, line in enumerate(split_lines(read_bytes(path), path), 1):
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
        file = pyarrow.parquet.ParquetFile(io.BytesIO(read_bytes(path)))
        wanted = {"translation", config.source_language, config.target_language, config.tags}
        for part in file.iter_batches(columns=[name for name in file.schema_arrow.names if name in wanted]):
            yield from part.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file ({error}).") from error


def _read_hub(split: str, config: DataConfig, drop_empty: bool) -> tuple[Pairs, Report]:
    import datasets  # takes a second to import, and most runs read local files

    name = " ".join(part for part in (config.corpus, config.corpus_config, split) if part)
    try:
        rows = datasets.load_dataset(config.corpus, config.corpus_config, split=split)
    except Exception as error:  # network, names, authorization and formats have no common class
        raise InputError(
            f"The Hugging Face dataset {name} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return _without_empty(_pairs_of_rows(rows, name, "row", config), (name, name), "row", drop_empty)


def _pairs_of_rows(rows: Iterable[Any], name: str, unit: str, config: DataConfig) -> Pairs:
    """Of `{"translation": {"en": ..., "de": ...}}` or `{"en": ..., "de": ...}`."""
    languages = (config.source_language, config.target_language)
    pairs = Pairs([], [], None if config.tags is None else [])
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
        for language, texts in zip(languages, (pairs.sources, pairs.targets), strict=True):
            texts.append(sides[language])
        if pairs.tags is not None:
            tags = row.get(config.tags)
            if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                raise InputError(
                    f"{name}, {unit} {number}: {config.tags!r} (data.tags) must be a list of strings, but is "
                    f"{_kind(tags)}."
                )
            pairs.tags.append(tuple(tags))
    return pairs


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
    kept: list[int] = []
    for place, pair in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
        empty = [not text.strip() for text in pair]
        if not any(empty):
            kept.append(place)
        elif not drop_empty:
            side = empty.index(True)
            raise InputError(
                f"{names[side]}, {unit} {place + 1} has an empty {('source', 'target')[side]}: mend it, or take "
                "the pair out (of training pairs, data.drop_empty does so)."
            )
    report.drop("empty", report.read - len(kept))
    if not kept:
        raise InputError(f"There is no sentence pair to use. {report}")
    return pairs.select(kept), report

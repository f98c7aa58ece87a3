"""Sentence pairs from local files and Hugging Face datasets, read strictly."""

import dataclasses
import typing
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from transformer.config import DataConfig
from transformer.data.normalization import normalize
from transformer.data.pairs import Pairs, Report
from transformer.data.records import FORMATS, to_pairs
from transformer.data.text import read_lines
from transformer.errors import InputError
from transformer.stages import counted

Split = Literal["train", "validation", "test"]
Empty = Literal["refuse", "drop", "keep"]
"""What to do with a pair that has an empty side."""


def read_pairs(config: DataConfig, split: Split) -> tuple[Pairs, Report]:
    """Reads the sentence pairs of a split, from local files or from the hub.

    Pairs are dropped from the training split only. Validation and test sets are scored on all of their references.

    Raises: InputError if the split is not configured, or if anything in it is invalid (see `read_files`).
    """
    given = _given(config).get(split)
    if not given:
        raise InputError(f"No {split} pairs are given. Name their files with --data.{split}.")
    if split != "test":
        config = dataclasses.replace(config, tags=None)
    empty, advice = _policy(config, split)
    if config.corpus == "files":
        pairs, report = read_files(given, config, empty=empty, advice=advice)
    elif config.is_one_file:
        pairs, report = read_files((config.corpus,), config, split=given[0], empty=empty, advice=advice)
    else:
        pairs, report = _read_hub(given[0], config, empty, advice)
    if split != "test":  # annotations are used in scoring and analysis only
        pairs = Pairs(pairs.sources, pairs.targets)
    if split == "train" and config.drop_duplicates:
        first: dict[tuple[str, str], int] = {}
        sides = counted(zip(pairs.sources, pairs.targets, strict=True), len(pairs.sources), "pairs compared")
        for index, (source, target) in enumerate(sides):
            pair = normalize(source, config.normalization), normalize(target, config.normalization)
            first.setdefault(pair, index)
        report.drop("duplicates", len(pairs.sources) - len(first))
        pairs = pairs.select(list(first.values()))
    return pairs, report


def _policy(config: DataConfig, split: Split) -> tuple[Empty, str]:
    """What to do with pairs that have an empty side, and how a user can change it."""
    if split == "train":
        return "drop" if config.drop_empty else "refuse", "--data.drop-empty drops such pairs from the training data."
    return (
        "keep" if config.allow_empty else "refuse",
        "--data.allow-empty keeps such pairs in the validation and test sets.",
    )


def splits(config: DataConfig) -> tuple[Split, ...]:
    """The splits that a config names."""
    return tuple(_given(config))


def modified_since(config: DataConfig, report: Path) -> bool:
    """Tells whether a local data file was modified after `data.json` was written, or that file is missing."""
    names = chain([config.corpus], *_given(config).values())
    times = [Path(name).stat().st_mtime_ns for name in names if Path(name).is_file()]
    return not report.exists() or max(times, default=0) > report.stat().st_mtime_ns


def _given(config: DataConfig) -> dict[Split, tuple[str, ...]]:
    """The files or names of each split. One file with all splits has default names."""
    every: tuple[Split, ...] = typing.get_args(Split)
    given: dict[Split, tuple[str, ...]] = {split: getattr(config, split) for split in every if getattr(config, split)}
    return given or ({split: (split,) for split in every} if config.is_one_file else {})


def read_references(source: str, references: Sequence[str], config: DataConfig, *, empty: Empty = "refuse") -> Pairs:
    """Reads an evaluation set with one or several references for each source.

    Args:
        source: A file of text, or of pairs.
        references: Files of the same kinds. Empty if `source` is a file of pairs that contains the reference.
        config: The languages and columns.
        empty: What to do with a pair that has an empty side.

    Raises: InputError if `read_files` refuses the source with any of the references.
    """
    config = dataclasses.replace(config, tags=None)  # tags under the usual key are read without it
    every = [(source, reference) for reference in references] or [(source,)]
    advice = "--allow-empty keeps such pairs."
    pairs, *others = (read_files(files, config, empty=empty, advice=advice)[0] for files in every)
    return pairs._replace(further_references=tuple(other.targets for other in others))


def read_parallel(source: str, target: str, config: DataConfig) -> Pairs:
    """Reads the pairs of two files line by line, including empty lines.

    A file of pairs contributes its source or its target, according to which of the two it is given as.

    Raises: InputError if a file cannot be read (see `read_files`), or if one has more lines than the other.
    """
    pairs = Pairs(_read_side(source, 0, config), _read_side(target, 1, config))
    if len(pairs.sources) != len(pairs.targets):
        raise InputError(
            f"{source} has {len(pairs.sources)} lines, but {target} has {len(pairs.targets)}. Line n of one file must "
            "be the translation of line n of the other."
        )
    return pairs


def read_files(
    files: tuple[str, ...],
    config: DataConfig,
    *,
    split: str | None = None,
    empty: Empty = "refuse",
    advice: str = "",
) -> tuple[Pairs, Report]:
    """Reads the sentence pairs of two files (a Moses pair) or of one file.

    The text is not normalized here. A byte-order mark at the start of a file is not part of the text and is removed.

    Args:
        files: Source file and target file, one sentence per line; or one .tsv, .jsonl, .json or .parquet file of pairs.
            If two files are given, a file of pairs contributes the source or the target, according to its position.
            Each may be compressed (.gz, .xz, .zst). `package:NAME` is a file that comes with this package.
        config: The languages and columns. A side is empty if its normalized text is empty.
        split: Value of `config.split_key` that selects pairs of a JSONL or parquet file. None selects all pairs.
        empty: What to do with a pair that has an empty side.
        advice: A sentence that says how to get another treatment of empty sides, for the error message.

    Raises: InputError, naming file and line. A file may be missing, damaged, of an unknown format or not UTF-8. A line
        may have a `\\r` inside it, a missing or superfluous column, or a side that is missing or not a string. With
        `empty="refuse"`, a side may be empty. Two files may differ in their number of lines, or no pair may be left.
    """
    if not all(files):
        raise InputError("The name of a file of sentence pairs is empty. Give the file's path.")
    if config.tags is not None and (len(files) == 2 or _suffix(files[0]) == ".tsv"):
        raise InputError(
            f"{files[0]} has no tags, but --data.tags is {config.tags}. Give a JSONL or parquet file, or leave out "
            "--data.tags."
        )
    if len(files) == 2 and not (files[0] == files[1] and is_file_of_pairs(files[0])):
        return _without_empty(read_parallel(*files, config), files, "line", config, empty, advice)
    path = files[0]
    pairs, numbers = _read_one(path, config, split)
    if split is not None and not pairs.sources:
        raise InputError(
            f"{path} has no pairs whose {config.split_key!r} (--data.split-key) is {split!r}. Name its splits with "
            "--data.train, --data.validation and --data.test. To read other files, add --data.corpus files."
        )
    known = FORMATS.get(_suffix(path))
    return _without_empty(pairs, (path, path), known.unit if known else "line", config, empty, advice, numbers)


def read_targets(path: str, config: DataConfig) -> list[str]:
    """Reads the target sides of a file, including empty ones.

    In a text file, these are the lines.

    Raises: InputError if the file cannot be read (see `read_files`).
    """
    return _read_side(path, 1, config)


def is_file_of_pairs(path: str) -> bool:
    """Whether a file holds both sides of each pair, according to its suffix."""
    return _suffix(path) in (".tsv", *FORMATS)


def _read_one(path: str, config: DataConfig, split: str | None = None) -> tuple[Pairs, Sequence[int] | None]:
    """The pairs of one file, and the number of each pair's record.

    None instead of the numbers means that pair n is record n.
    """
    suffix = _suffix(path)
    if suffix == ".tsv":
        return _read_tsv(path, config.tsv_columns), None
    if suffix in FORMATS:
        read, unit = FORMATS[suffix]
        return to_pairs(read(path, config), config, name=path, unit=unit, split=split)
    *others, last = FORMATS
    raise InputError(
        f"{path} is not a file of pairs, according to its suffix. Give one file that ends in .tsv, "
        f"{', '.join(others)} or {last}, optionally followed by .gz, .xz or .zst. Or give two files, source and "
        "target, with one sentence per line."
    )


def _read_side(path: str, side: Literal[0, 1], config: DataConfig) -> list[str]:
    return _read_one(path, config)[0][:2][side] if is_file_of_pairs(path) else read_lines(path)


def _suffix(path: str) -> str:
    """The suffix that names the format, in lower case and without compression."""
    plain = Path(path.lower())
    return (plain.with_suffix("") if plain.suffix in (".gz", ".xz", ".zst") else plain).suffix


def _read_tsv(path: str, columns: tuple[int, int]) -> Pairs:
    rows = [line.split("\t") for line in read_lines(path)]
    width = max(*columns, len(rows[0]) - 1 if rows else 0) + 1
    for number, row in enumerate(rows, 1):
        # A line with more columns may have a tab inside a sentence, whose end would be lost silently.
        if len(row) != width:
            raise InputError(
                f"{path}, line {number} has {len(row)} columns where {width} are expected. Every line must have as "
                f"many columns as line 1, among them source and target (--data.tsv-columns {columns[0]} {columns[1]})."
            )
    return Pairs([row[columns[0]] for row in rows], [row[columns[1]] for row in rows])


def _read_hub(split: str, config: DataConfig, empty: Empty, advice: str) -> tuple[Pairs, Report]:
    import datasets  # importing it takes a second, and most runs read local files

    name = " ".join(part for part in (config.corpus, config.corpus_config, split) if part)
    try:
        rows = datasets.load_dataset(config.corpus, config.corpus_config, split=split)
    except Exception as error:  # failures of network, names, authorization and formats have no common base class
        raise InputError(
            f"The Hugging Face dataset {name} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    pairs, numbers = to_pairs(counted(rows, getattr(rows, "num_rows", None), "rows"), config, name=name, unit="row")
    return _without_empty(pairs, (name, name), "row", config, empty, advice, numbers)


def _without_empty(
    pairs: Pairs,
    names: tuple[str, ...],
    unit: str,
    config: DataConfig,
    empty: Empty,
    advice: str,
    numbers: Sequence[int] | None = None,
) -> tuple[Pairs, Report]:
    """Drops, refuses or keeps pairs that have an empty side, and counts them.

    Args:
        pairs: All pairs.
        names: The file of each side.
        unit: Name of a record in error messages, "line" or "row".
        config: The normalization.
        empty: What to do with a pair that has an empty side.
        advice: The last sentence of the error message for such a pair.
        numbers: The line or row of each pair. None: pair n has number n.
    """
    report = Report(files=tuple(dict.fromkeys(names)), read=len(pairs.sources))
    kept: list[int] = []
    sides = counted(zip(pairs.sources, pairs.targets, strict=True), report.read, "pairs checked")
    for index, pair in enumerate(sides):
        blank = [not normalize(text, config.normalization).strip() for text in pair]
        if any(blank) and empty == "refuse":
            side, number = blank.index(True), index + 1 if numbers is None else numbers[index]
            raise InputError(
                f"{names[side]}, {unit} {number} has an empty {('source', 'target')[side]}. Fix it or remove the "
                f"pair. {advice}".rstrip()
            )
        if any(blank) and empty == "keep":
            report.empty += 1
        if empty == "keep" or not any(blank):
            kept.append(index)
    report.drop("empty", report.read - len(kept))
    if not kept:
        raise InputError(f"No sentence pair is left to use. {report}")
    return pairs.select(kept), report

"""Sentence pairs from local files and Hugging Face datasets; what is not in order is an error."""

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from transformer.config import DataConfig
from transformer.data.normalization import normalize
from transformer.data.pairs import Pairs, Report
from transformer.data.records import FORMATS, to_pairs
from transformer.data.text import read_lines
from transformer.errors import InputError

Split = Literal["train", "validation", "test"]
Empty = Literal["refuse", "drop", "keep"]  # what becomes of a pair with an empty side


def read_pairs(config: DataConfig, split: Split) -> tuple[Pairs, Report]:
    """The sentence pairs of a split, from local files or from the hub.

    Raises: InputError if the split is not given or anything in it is not in order (see `read_files`).
    """
    given = _given(config).get(split)
    if split != "test":
        config = dataclasses.replace(config, tags=None)
    # A validation or test set is scored on all of its references, so nothing is ever dropped from those.
    empty: Empty = "drop" if split == "train" and config.drop_empty else "refuse"
    if not given:
        raise InputError(f"No {split} pairs are given: name them with --data.{split}.")
    if config.corpus == "files":
        pairs, report = read_files(given, config, empty=empty)
    elif config.is_one_file:
        pairs, report = read_files((config.corpus,), config, split=given[0], empty=empty)
    else:
        pairs, report = _read_hub(given[0], config, empty)
    if split != "test":  # only what is scored and looked into needs its annotations
        pairs = Pairs(pairs.sources, pairs.targets)
    if split == "train" and config.drop_duplicates:
        first: dict[tuple[str, str], int] = {}
        for index, (source, target) in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
            pair = normalize(source, config.normalization), normalize(target, config.normalization)
            first.setdefault(pair, index)
        report.drop("duplicates", len(pairs.sources) - len(first))
        pairs = pairs.select(list(first.values()))
    return pairs, report


def splits(config: DataConfig) -> tuple[Split, ...]:
    """The splits that a config has."""
    return tuple(_given(config))


def _given(config: DataConfig) -> dict[Split, tuple[str, ...]]:
    """The files or names of each split that a config has. A file with all splits need not have them named."""
    every: tuple[Split, ...] = typing.get_args(Split)
    given: dict[Split, tuple[str, ...]] = {split: getattr(config, split) for split in every if getattr(config, split)}
    return given or ({split: (split,) for split in every} if config.is_one_file else {})


def read_references(source: str, references: Sequence[str], config: DataConfig, *, empty: Empty = "refuse") -> Pairs:
    """An evaluation set with one or several reference translations of each source.

    Args:
        source: A file of text, or of pairs.
        references: Files of the same kinds; none if `source` is a file of pairs that has the reference.
        config: Names the languages and columns.
        empty: As in `read_files`.

    Raises: InputError if `read_files` does for the source and any of the references.
    """
    config = dataclasses.replace(config, tags=None)  # those under the usual key are read
    every = [(source, reference) for reference in references] or [(source,)]
    pairs, *others = (read_files(files, config, empty=empty)[0] for files in every)
    return pairs._replace(further_references=tuple(other.targets for other in others))


def read_parallel(source: str, target: str, config: DataConfig) -> Pairs:
    """Line by line the pairs of two files, empty lines too. Of a file of pairs, its own side is taken.

    Raises: InputError if a file cannot be read (see `read_files`), or one has more lines than the other.
    """
    pairs = Pairs(_read_side(source, 0, config), _read_side(target, 1, config))
    if len(pairs.sources) != len(pairs.targets):
        raise InputError(
            f"{source} has {len(pairs.sources)} lines, but {target} has {len(pairs.targets)}: each line of the "
            "one must be the translation of the same line of the other."
        )
    return pairs


def read_files(
    files: tuple[str, ...], config: DataConfig, *, split: str | None = None, empty: Empty = "refuse"
) -> tuple[Pairs, Report]:
    """The sentence pairs of two files (a Moses pair) or of one. Text stays as it is: the tokenizer normalizes it.

    A byte-order mark at the start of a file is no text, and left out.

    Args:
        files: Source file and target file, one sentence a line; or one .tsv, .jsonl, .json or .parquet file of pairs.
            Where two files are given, one of pairs gives the side that it is named for. Each may be compressed: .gz,
            .xz, .zst. `package:NAME` is a file that comes with this package.
        config: Names the languages and columns. A side is empty if nothing is left of it when it is normalized.
        split: Of JSONL and parquet take only the pairs whose `config.split_key` has this value; None takes all.
        empty: Pairs with an empty side are an error, dropped and counted, or kept.

    Raises: InputError, naming file and line, if a file is missing, damaged, or of an unknown kind; not UTF-8; has `\\r`
        inside a line, another number of lines than its partner, a missing or superfluous column, a missing or
        non-string side, an empty side (unless `empty` says otherwise); or if no pair is left.
    """
    if not all(files):
        raise InputError("The name of a file of sentence pairs is empty: give its path.")
    if config.tags is not None and (len(files) == 2 or _suffix(files[0]) == ".tsv"):
        raise InputError(f"{files[0]} has no tags, but data.tags is {config.tags}: they need JSONL or parquet.")
    if len(files) == 2 and not (files[0] == files[1] and is_file_of_pairs(files[0])):
        return _without_empty(read_parallel(*files, config), files, "line", config, empty)
    path = files[0]
    pairs, numbers = _read_one(path, config, split)
    if split is not None and not pairs.sources:
        raise InputError(
            f"{path} has no pairs whose {config.split_key!r} (data.split_key) is {split!r}. Name the splits that it "
            "has with --data.train, --data.validation and --data.test, or add --data.corpus files to read other files."
        )
    known = FORMATS.get(_suffix(path))
    return _without_empty(pairs, (path, path), known.unit if known else "line", config, empty, numbers)


def read_targets(path: str, config: DataConfig) -> list[str]:
    """The lines of a text file, or the target sides of a file of pairs, empty ones too.

    Raises: InputError if the file cannot be read (see `read_files`).
    """
    return _read_side(path, 1, config)


def is_file_of_pairs(path: str) -> bool:
    """Whether a file's name says that it holds both sides of each pair."""
    return _suffix(path) in (".tsv", *FORMATS)


def _read_one(path: str, config: DataConfig, split: str | None = None) -> tuple[Pairs, Sequence[int] | None]:
    """The pairs of a file that holds both sides, and the number of each one's record; None counts them."""
    suffix = _suffix(path)
    if suffix == ".tsv":
        return _read_tsv(path, config.tsv_columns), None
    if suffix in FORMATS:
        read, unit = FORMATS[suffix]
        return to_pairs(read(path, config), config, name=path, unit=unit, split=split)
    *others, last = FORMATS
    raise InputError(
        f"{path}: pairs in one file must be .tsv, {', '.join(others)} or {last}, or any of these with .gz, .xz or "
        ".zst. For text with one sentence a line give two files, source and target."
    )


def _read_side(path: str, side: Literal[0, 1], config: DataConfig) -> list[str]:
    return _read_one(path, config)[0][:2][side] if is_file_of_pairs(path) else read_lines(path)


def _suffix(path: str) -> str:
    """The suffix that names the format, in lower case: `.tsv` of `pairs.TSV.gz`."""
    plain = Path(path.lower())
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


def _read_hub(split: str, config: DataConfig, empty: Empty) -> tuple[Pairs, Report]:
    import datasets  # takes a second to import, and most runs read local files

    name = " ".join(part for part in (config.corpus, config.corpus_config, split) if part)
    try:
        rows = datasets.load_dataset(config.corpus, config.corpus_config, split=split)
    except Exception as error:  # network, names, authorization and formats have no common class
        raise InputError(
            f"The Hugging Face dataset {name} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    pairs, numbers = to_pairs(rows, config, name=name, unit="row")
    return _without_empty(pairs, (name, name), "row", config, empty, numbers)


def _without_empty(
    pairs: Pairs,
    names: tuple[str, ...],
    unit: str,
    config: DataConfig,
    empty: Empty,
    numbers: Sequence[int] | None = None,
) -> tuple[Pairs, Report]:
    """The pairs, those with an empty side dropped, refused or kept, and the report.

    `names` has the file of each side, `numbers` the line or row of each pair; None counts them.
    """
    report = Report(files=tuple(dict.fromkeys(names)), read=len(pairs.sources))
    kept: list[int] = []
    for index, pair in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
        blank = [not normalize(text, config.normalization).strip() for text in pair]
        if empty == "keep" or not any(blank):
            kept.append(index)
        elif empty == "refuse":
            side, number = blank.index(True), index + 1 if numbers is None else numbers[index]
            raise InputError(
                f"{names[side]}, {unit} {number} has an empty {('source', 'target')[side]}: mend it, or take "
                "the pair out (of training pairs, data.drop_empty does so; evaluate and tune --allow-empty keep it)."
            )
    report.drop("empty", report.read - len(kept))
    if not kept:
        raise InputError(f"There is no sentence pair to use. {report}")
    return pairs.select(kept), report

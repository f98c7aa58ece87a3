"""Sentence pairs from local files and Hugging Face datasets, read strictly."""

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformer.config import DataConfig
from transformer.data.duplicates import Seen
from transformer.data.normalization import normalize
from transformer.data.pair_files import read_side, stream_files, stream_parallel, unit_of
from transformer.data.pairs import Chunk, Pairs, Report, joined
from transformer.data.raw_files import is_remote, locate
from transformer.data.records import to_pairs
from transformer.errors import InputError, require
from transformer.interruption import checked
from transformer.stages import counted

Split = Literal["train", "validation", "test"]
Empty = Literal["refuse", "drop", "keep"]
"""What to do with a pair that has an empty side."""


class _Opened(NamedTuple):
    """The pairs of a corpus as they are read, the file of each side, and the word for a record in error messages."""

    chunks: Iterable[Chunk]
    names: tuple[str, ...]
    unit: str


def read_pairs(config: DataConfig, split: Split) -> tuple[Pairs, Report]:
    """Reads the sentence pairs of a split into memory, from local files or from the hub.

    Pairs are dropped from the training split only. Validation and test sets are scored on all of their references.

    Raises: InputError if the split is not configured, or if anything in it is invalid (see `read_files`).
    """
    report = Report(())
    return joined(stream_pairs(config, split, report)), report


def stream_pairs(config: DataConfig, split: Split, report: Report) -> Iterator[Chunk]:
    """Yields the sentence pairs of a split chunk by chunk, corpus after corpus, as `read_pairs` reads them.

    Args:
        config: The files, and what to drop.
        split: The split.
        report: Where the files and pairs of each corpus are counted, after its last pair.

    Raises: InputError as `read_pairs` does, when the invalid line is reached.
    """
    corpora = corpora_of(config, split)
    if split == "train":
        _require_regular(config)
    if split != "test":
        config = dataclasses.replace(config, tags=None)
    empty, advice = _policy(config, split)
    seen = Seen(config.normalization) if split == "train" and config.drop_duplicates else None
    for number, given in enumerate(corpora):
        opened = _open(given, config)
        own = Report(tuple(dict.fromkeys(opened.names)))
        for chunk in checked(_without_empty(opened, config, empty, advice, own)):
            if seen is not None:
                kept = seen.first(chunk.pairs)
                own.drop("duplicates", len(chunk.numbers) - len(kept))
                chunk = chunk.select(kept)
            if split != "test":  # annotations are used in scoring and analysis only
                chunk = chunk._replace(pairs=Pairs(chunk.pairs.sources, chunk.pairs.targets))
            yield chunk._replace(corpus=number)
        _require_pairs(own)
        report.add(own)


def _require_regular(config: DataConfig) -> None:
    """Raises InputError if training pairs come from a pipe: they are read for the tokenizer, the key and the tokens."""
    one_file = (config.corpus,) if config.is_one_file else ()
    for path in chain.from_iterable(config.corpora) if config.corpus == "files" else one_file:
        require(
            is_remote(path) or not locate(path).exists() or locate(path).is_file(),
            f"{path} is not a regular file. Training pairs are read several times, so write them to a file first.",
        )


def corpora_of(config: DataConfig, split: Split) -> tuple[tuple[str, ...], ...]:
    """The files, or the name of the split, of each corpus of a split. Only the training pairs have several.

    Raises: InputError if the split is not configured.
    """
    given = _given(config).get(split)
    if not given:
        raise InputError(f"No {split} pairs are given. Name their files with --data.{split}.")
    return config.corpora if split == "train" and config.train else (given,)


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
    return joined(stream_parallel(source, target, config))


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
    opened = _open_files(files, config, split)
    report = Report(tuple(dict.fromkeys(opened.names)))
    pairs = joined(_without_empty(opened, config, empty, advice, report))
    _require_pairs(report)
    return pairs, report


def read_targets(path: str, config: DataConfig) -> list[str]:
    """Reads the target sides of a file, including empty ones.

    In a text file, these are the lines.

    Raises: InputError if the file cannot be read (see `read_files`).
    """
    return [*read_side(path, 1, config)]


def names_of(given: tuple[str, ...], config: DataConfig) -> tuple[str, ...]:
    """The files of a corpus, or the Hugging Face dataset with its split."""
    if config.corpus == "files":
        return given
    if config.is_one_file:
        return (config.corpus,)
    return (" ".join(part for part in (config.corpus, config.corpus_config, given[0]) if part),)


def _open(given: tuple[str, ...], config: DataConfig) -> _Opened:
    names = names_of(given, config)
    if config.corpus == "files":
        return _open_files(names, config)
    if config.is_one_file:
        return _open_files(names, config, given[0])
    (name,) = names
    rows = load_rows(config, given[0])
    counted_rows = counted(rows, getattr(rows, "num_rows", None), "rows")
    return _Opened(to_pairs(counted_rows, config, name=name, unit="row"), (name, name), "row")


def _open_files(files: tuple[str, ...], config: DataConfig, split: str | None = None) -> _Opened:
    chunks = stream_files(files, config, split)
    if split is not None:
        chunks = _require_split(chunks, files[0], config, split)
    return _Opened(chunks, files if len(files) == 2 else files * 2, unit_of(files))


def _require_split(chunks: Iterable[Chunk], path: str, config: DataConfig, split: str) -> Iterator[Chunk]:
    found = False
    for chunk in chunks:
        found = found or bool(chunk.numbers)
        yield chunk
    if not found:
        raise InputError(
            f"{path} has no pairs whose {config.split_key!r} (--data.split-key) is {split!r}. Name its splits with "
            "--data.train, --data.validation and --data.test. To read other files, add --data.corpus files."
        )


def load_rows(config: DataConfig, split: str) -> Any:
    """Loads a split of a Hugging Face dataset, which maps its rows into memory.

    Raises: InputError if it cannot be loaded.
    """
    import datasets  # importing it takes a second, and most runs read local files

    try:
        return datasets.load_dataset(config.corpus, config.corpus_config, split=split)
    except Exception as error:  # failures of network, names, authorization and formats have no common base class
        (name,) = names_of((split,), config)
        raise InputError(
            f"The Hugging Face dataset {name} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _without_empty(opened: _Opened, config: DataConfig, empty: Empty, advice: str, report: Report) -> Iterator[Chunk]:
    """Drops, refuses or keeps pairs that have an empty side, and counts them.

    Args:
        opened: The pairs.
        config: The normalization.
        empty: What to do with a pair that has an empty side.
        advice: The last sentence of the error message for such a pair.
        report: Where all pairs are counted.
    """
    for chunk in opened.chunks:
        report.read += len(chunk.numbers)
        kept: list[int] = []
        for index, pair in enumerate(zip(chunk.pairs.sources, chunk.pairs.targets, strict=True)):
            blank = [not normalize(text, config.normalization).strip() for text in pair]
            if any(blank) and empty == "refuse":
                side, number = blank.index(True), chunk.numbers[index]
                raise InputError(
                    f"{opened.names[side]}, {opened.unit} {number} has an empty {('source', 'target')[side]}. Fix it "
                    f"or remove the pair. {advice}".rstrip()
                )
            if any(blank) and empty == "keep":
                report.empty += 1
            if empty == "keep" or not any(blank):
                kept.append(index)
        report.drop("empty", len(chunk.numbers) - len(kept))
        yield chunk.select(kept)


def _require_pairs(report: Report) -> None:
    if not report.kept:
        raise InputError(f"No sentence pair is left to use. {report}")

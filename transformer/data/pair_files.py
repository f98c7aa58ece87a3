"""Sentence pairs from text, TSV, JSONL and parquet files, read strictly and chunk by chunk."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from transformer.config import DataConfig
from transformer.data.pairs import CHUNK, Chunk, Pairs
from transformer.data.raw_files import COMPRESSIONS
from transformer.data.records import FORMATS, to_pairs
from transformer.data.text import read_lines
from transformer.errors import InputError
from transformer.stages import counted


def stream_files(files: tuple[str, ...], config: DataConfig, split: str | None = None) -> Iterator[Chunk]:
    """Yields the sentence pairs of two files (a Moses pair) or of one file; see `corpus.read_files`.

    Pairs with an empty side are among them.
    """
    if not all(files):
        raise InputError("The name of a file of sentence pairs is empty. Give the file's path.")
    if config.tags is not None and (len(files) == 2 or suffix(files[0]) == ".tsv"):
        raise InputError(
            f"{files[0]} has no tags, but --data.tags is {config.tags}. Give a JSONL or parquet file, or leave out "
            "--data.tags."
        )
    if len(files) == 2 and not (files[0] == files[1] and is_file_of_pairs(files[0])):
        return stream_parallel(*files, config)
    return _stream_one(files[0], config, split)


def stream_parallel(source: str, target: str, config: DataConfig) -> Iterator[Chunk]:
    """Yields the pairs of two files line by line; see `corpus.read_parallel`."""
    sides = read_side(source, 0, config), counted(read_side(target, 1, config), None, "lines")
    first = 1
    while True:
        sources, targets = ([*islice(side, CHUNK)] for side in sides)
        if len(sources) != len(targets):
            both = zip((sources, targets), sides, strict=True)
            totals = [first - 1 + len(own) + sum(1 for _ in rest) for own, rest in both]
            raise InputError(
                f"{source} has {totals[0]} lines, but {target} has {totals[1]}. Line n of one file must be the "
                "translation of line n of the other."
            )
        if not sources:
            return
        yield Chunk(Pairs(sources, targets), range(first, first + len(sources)))
        first += len(sources)


def read_side(path: str, side: Literal[0, 1], config: DataConfig) -> Iterator[str]:
    """Yields the sources (0) or targets (1) of a file; the lines, if it is a text file."""
    if not is_file_of_pairs(path):
        return read_lines(path)
    return chain.from_iterable(chunk.pairs[:2][side] for chunk in _stream_one(path, config))


def is_file_of_pairs(path: str) -> bool:
    """Whether a file holds both sides of each pair, according to its suffix."""
    return suffix(path) in (".tsv", *FORMATS)


def unit_of(files: tuple[str, ...]) -> str:
    """The word for a record of these files in error messages."""
    known = FORMATS.get(suffix(files[0])) if len({*files}) == 1 else None
    return known.unit if known else "line"


def suffix(path: str) -> str:
    """The suffix that names the format, in lower case and without compression."""
    plain = Path(path.lower())
    return (plain.with_suffix("") if plain.suffix in COMPRESSIONS else plain).suffix


def _stream_one(path: str, config: DataConfig, split: str | None = None) -> Iterator[Chunk]:
    """Yields the pairs of one file."""
    if suffix(path) == ".tsv":
        return _stream_tsv(path, config.tsv_columns)
    if suffix(path) in FORMATS:
        read, unit = FORMATS[suffix(path)]
        return to_pairs(read(path, config), config, name=path, unit=unit, split=split)
    *others, last = FORMATS
    raise InputError(
        f"{path} is not a file of pairs, according to its suffix. Give one file that ends in .tsv, "
        f"{', '.join(others)} or {last}, optionally followed by .gz, .xz or .zst. Or give two files, source and "
        "target, with one sentence per line."
    )


def _stream_tsv(path: str, columns: tuple[int, int]) -> Iterator[Chunk]:
    numbered = enumerate(counted(read_lines(path), None, "lines"), 1)
    width = 0
    while part := [*islice(numbered, CHUNK)]:
        pairs = Pairs([], [])
        for number, line in part:
            row = line.split("\t")
            width = width or max(*columns, len(row) - 1) + 1
            # A line with more columns may have a tab inside a sentence, whose end would be lost silently.
            if len(row) != width:
                raise InputError(
                    f"{path}, line {number} has {len(row)} columns where {width} are expected. Every line must have as "
                    "many columns as line 1, among them source and target (--data.tsv-columns "
                    f"{columns[0]} {columns[1]})."
                )
            pairs.sources.append(row[columns[0]])
            pairs.targets.append(row[columns[1]])
        yield Chunk(pairs, range(part[0][0], part[-1][0] + 1))

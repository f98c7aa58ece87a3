"""Reading in chunks, from files on any fsspec path."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from transformer.config import DataConfig
from transformer.data import pair_files, pairs, raw_files, records
from transformer.data.corpus import read_files, read_pairs, stream_pairs
from transformer.data.pairs import Pairs, Report
from transformer.errors import InputError

SOURCES = [f"Satz {n} \u2028 \U0001f600" for n in range(25)]
TARGETS = [f"sentence\x85 {n}" for n in range(25)]


@pytest.fixture(params=[(1, 3), (5, 4), (2**20, 10_000)])
def sizes(request, monkeypatch) -> tuple[int, int]:
    """Bytes of a block and pairs of a chunk, so small that characters and lines are divided."""
    block, chunk = request.param
    monkeypatch.setattr(raw_files, "BLOCK", block)
    for module in (pairs, pair_files, records):
        monkeypatch.setattr(module, "CHUNK", chunk)
    return request.param


def lines(texts: list[str], end: str = "\r\n") -> bytes:
    return "".join(f"{text}{end}" for text in texts).encode()


def write(folder: Path, contents: dict[str, bytes]) -> tuple[str, ...]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return tuple(str(folder / name) for name in contents)


ROWS = [{"en": source, "de": target} for source, target in zip(SOURCES, TARGETS, strict=True)]
FORMS = {
    "x.en x.de": [lines(SOURCES), lines(TARGETS)],
    "x.tsv": [lines([f"{source}\t{target}" for source, target in zip(SOURCES, TARGETS, strict=True)])],
    "x.jsonl": [lines([json.dumps(row) for row in ROWS])],
    "x.en.gz x.tsv": [
        gzip.compress(lines(SOURCES)),
        lines([f"{source}\t{target}" for source, target in zip(SOURCES, TARGETS, strict=True)]),
    ],
}


@pytest.mark.parametrize("names", FORMS)
def test_chunks_and_blocks_of_any_size_give_the_same_pairs(tmp_path, sizes, names):
    files = write(tmp_path, dict(zip(names.split(), FORMS[names], strict=True)))
    pairs, report = read_files(files, DataConfig())
    assert pairs == Pairs(SOURCES, TARGETS)
    assert (report.read, report.kept) == (25, 25)
    chunks = [*stream_pairs(DataConfig(train=files), "train", Report(()))]
    assert max(len(chunk.numbers) for chunk in chunks) <= sizes[1]
    assert [number for chunk in chunks for number in chunk.numbers] == [*range(1, 26)]


def test_parquet_is_read_in_parts(tmp_path, sizes):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    chunks = [*stream_pairs(DataConfig(train=(str(tmp_path / "x.parquet"),)), "train", Report(()))]
    assert [source for chunk in chunks for source in chunk.pairs.sources] == SOURCES
    assert max(len(chunk.numbers) for chunk in chunks) <= sizes[1]


def error_of(files: tuple[str, ...]) -> str:
    with pytest.raises(InputError) as caught:
        read_files(files, DataConfig())
    return str(caught.value)


def test_errors_name_the_same_line_whatever_the_chunk(tmp_path, sizes):
    for text, what in ((b"\xff", "is not UTF-8"), (b"a\rb", "has a carriage return"), (b"", "has an empty source")):
        given = SOURCES[:20]
        content = lines(given) + text + b"\n" + lines(SOURCES)
        files = write(tmp_path, {"x.en": content, "x.de": lines([*TARGETS, *TARGETS][:46])})
        assert error_of(files).startswith(f"{files[0]}, line 21 {what}")
    (file,) = write(tmp_path, {"x.tsv": lines(["a\tb"] * 13 + ["c"])})
    assert error_of((file,)).startswith(f"{file}, line 14 has 1 columns where 2 are expected")
    (file,) = write(tmp_path, {"x.jsonl": lines([json.dumps(row) for row in ROWS[:17]] + ["{"])})
    assert error_of((file,)).startswith(f"{file}, line 18 is not a JSON object")


def test_two_files_of_different_lengths_are_counted_to_their_ends(tmp_path, sizes):
    files = write(tmp_path, {"x.en": lines(SOURCES), "x.de": lines(TARGETS[:18])})
    assert error_of(files).startswith(f"{files[0]} has 25 lines, but {files[1]} has 18. Line n of one")
    assert error_of(files[::-1]).startswith(f"{files[1]} has 18 lines, but {files[0]} has 25.")


def test_filters_count_as_if_all_pairs_were_in_memory(tmp_path, sizes):
    rows = ["a\tA", "\tB", "a\tA", "c\tC", " \tD", "a\tA", "e\t", "c\tC", "f\tF"]
    (file,) = write(tmp_path, {"x.tsv": lines(rows)})
    config, report = DataConfig(train=(file,), drop_empty=True, drop_duplicates=True), Report(())
    chunks = [*stream_pairs(config, "train", report)]
    assert [number for chunk in chunks for number in chunk.numbers] == [1, 4, 9]
    assert report.to_dict() == {
        "files": [file],
        "read": 9,
        "dropped": {"empty": 3, "duplicates": 3},
        "empty": 0,
        "kept": 3,
    }
    pairs, again = read_pairs(config, "train")
    assert (pairs, again) == (Pairs(["a", "c", "f"], ["A", "C", "F"]), report)


@pytest.fixture
def memory() -> Any:
    """fsspec's file system in memory, empty before and after."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_files_may_be_on_any_fsspec_path(memory, tmp_path):
    memory.pipe("/x.en.gz", gzip.compress(lines(SOURCES)))
    memory.pipe("/x.de", lines(TARGETS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    memory.pipe("/x.parquet", (tmp_path / "x.parquet").read_bytes())
    for files in (("memory://x.en.gz", "memory://x.de"), ("memory://x.parquet",)):
        pairs, report = read_pairs(DataConfig(train=files), "train")
        assert pairs == Pairs(SOURCES, TARGETS)
        assert report.files == files


def test_what_is_wrong_with_a_remote_file_is_said_in_a_sentence(memory):
    memory.pipe("/x.tsv.gz", b"no gzip")
    for path, reason in (
        ("memory://none.tsv", "cannot be read: No such file or directory."),
        ("nowhere://x.tsv", "cannot be read: Protocol not known: nowhere."),
        ("memory://x.tsv.gz", "cannot be decompressed (Not a gzipped file"),
    ):
        assert error_of((path,)).startswith(f"{path} {reason}")


def test_the_version_of_a_remote_file_changes_with_its_content(memory):
    memory.pipe("/x.tsv", b"a\tb\n")
    first = raw_files.version("memory://x.tsv")
    assert first == raw_files.version("memory://x.tsv")
    memory.pipe("/x.tsv", b"a\tc\n")
    assert raw_files.version("memory://x.tsv") != first
    assert raw_files.version("/x.tsv") is None


def test_a_pipe_of_training_pairs_is_refused(tmp_path):
    """It would be empty when it is read again."""
    os.mkfifo(tmp_path / "train.tsv")
    with pytest.raises(InputError, match=r"train\.tsv is not a regular file\. Training pairs are read several times"):
        next(stream_pairs(DataConfig(train=(str(tmp_path / "train.tsv"),)), "train", Report(())))

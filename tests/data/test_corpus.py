import gzip
import json
import lzma
import sys

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from transformer.config import DataConfig
from transformer.data.corpus import Pairs, read_files, read_pairs, splits
from transformer.data.text import decode_lines, read_lines
from transformer.errors import InputError

SOURCES = [
    "A man sleeps.",
    " two  spaces ",
    "line\u2028sep, nel\x85, vt\x0b, ff\x0c, rs\x1e",
    'one " quote',
    "null",
    "café 😀",
]
TARGETS = ["Ein Mann schläft.", "zwei", "drei", "vier", "NA", "1"]
CONFIG = DataConfig()


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read_all(path):
    return [*read_lines(path)]


def lines(texts):
    return "".join(f"{text}\n" for text in texts)


def error_of(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    return str(caught.value)


@pytest.fixture
def moses(tmp_path):
    return write(tmp_path / "x.en", lines(SOURCES)), write(tmp_path / "x.de", lines(TARGETS))


def test_moses_keeps_every_character_and_splits_at_newline_only(moses):
    pairs, report = read_files(moses, CONFIG)
    assert pairs.sources == SOURCES
    assert pairs.targets == TARGETS
    assert report.to_dict() == {"files": list(moses), "read": 6, "dropped": {}, "empty": 0, "kept": 6}


def test_last_line_may_lack_its_newline(tmp_path):
    assert read_all(write(tmp_path / "x", "a\nb")) == ["a", "b"]
    assert read_all(write(tmp_path / "y", "a\n\n")) == ["a", ""]


def compress_zst(data):
    """Two consecutive frames, which make one file."""
    return b"".join(zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in (data[:7], data[7:]))


COMPRESS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": compress_zst}


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
@pytest.mark.parametrize("form", ["moses", "tsv", "nested.jsonl", "flat.jsonl", "nested.parquet", "flat.parquet"])
def test_every_form_and_compression_gives_the_same_pairs(tmp_path, form, suffix):
    rows = [{"en": source, "de": target} for source, target in zip(SOURCES, TARGETS, strict=True)]
    if form.startswith("nested"):
        rows = [{"id": 1, "translation": row} for row in rows]
    if form == "moses":
        contents = {"x.en": lines(SOURCES), "x.de": lines(TARGETS)}
    elif form == "tsv":
        contents = {"x.tsv": lines(f"{source}\t{target}" for source, target in zip(SOURCES, TARGETS, strict=True))}
    elif form.endswith("jsonl"):
        contents = {form: lines(json.dumps(row) for row in rows)}
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "plain.parquet")
        contents = {form: (tmp_path / "plain.parquet").read_bytes()}
    files = tuple(
        write(tmp_path / (name + suffix), COMPRESS[suffix](data if isinstance(data, bytes) else data.encode()))
        for name, data in contents.items()
    )
    pairs, report = read_files(files, CONFIG)
    assert pairs == Pairs(SOURCES, TARGETS)
    assert report.files == files


def test_jsonl_takes_windows_line_ends_and_newlines_in_strings(tmp_path):
    path = write(tmp_path / "x.json", '{"en": "a\\nb", "de": "c\\rd"}\r\n{"en": "e", "de": "f"}\r\n')
    assert read_files((path,), CONFIG)[0] == Pairs(["a\nb", "e"], ["c\rd", "f"])


def test_columns_and_languages_come_from_the_config(tmp_path):
    path = write(tmp_path / "x.tsv", "1\tHallo\tbonjour\n2\tWelt\tmonde\n")
    assert read_files((path,), DataConfig(tsv_columns=(2, 1)))[0] == Pairs(["bonjour", "monde"], ["Hallo", "Welt"])
    path = write(tmp_path / "x.jsonl", '{"fr": "bonjour", "de": "Hallo", "en": null}\n')
    assert read_files((path,), DataConfig(source_language="fr"))[0] == Pairs(["bonjour"], ["Hallo"])


def test_splits_are_those_that_are_given():
    assert splits(DataConfig(train=("x.tsv",), test=("y.tsv",))) == ("train", "test")


def test_a_split_that_is_not_given():
    assert "--data.validation" in error_of(read_pairs, CONFIG, "validation")


def test_missing_file_and_directory(tmp_path):
    missing = str(tmp_path / "none.en")
    assert error_of(read_all, missing) == f"{missing} cannot be read: No such file or directory."
    assert error_of(read_all, str(tmp_path)) == f"{tmp_path} cannot be read: Is a directory."


def test_empty_file_name(moses):
    for files in (("",), ("", moses[1]), (moses[0], "")):
        assert error_of(read_files, files, CONFIG).startswith("The name of a file of sentence pairs is empty")


@pytest.mark.parametrize("content", ["a\tA\nb\tB\n", '{"en": "a", "de": "A"}\n{"en": "b", "de": "B"}\n'])
def test_byte_order_mark_is_left_out(tmp_path, content):
    path = write(tmp_path / ("x.tsv" if "\t" in content else "x.jsonl"), "\ufeff" + content)
    assert read_files((path,), CONFIG)[0] == Pairs(["a", "b"], ["A", "B"])
    # Elsewhere it is text; and it does not shift the line numbers of errors.
    assert decode_lines("a\ufeff\n\ufeffb\n".encode(), "x") == ["a\ufeff", "\ufeffb"]
    assert "line 2 is not UTF-8" in error_of(decode_lines, b"\xef\xbb\xbfa\n\xff\n", "x")


def test_unequal_line_counts(tmp_path):
    files = write(tmp_path / "x.en", "a\nb\n"), write(tmp_path / "x.de", "A\nB\nC\n")
    assert error_of(read_files, files, CONFIG).startswith(f"{files[0]} has 2 lines, but {files[1]} has 3.")


@pytest.mark.parametrize("name", ["x.en", "x.tsv"])
@pytest.mark.parametrize("text", ["a\tb\nc\rc\td\n", "a\tb\r\nc\td\r\r\n", "a\tb\nc\td\r"])
def test_carriage_return_inside_a_line(tmp_path, name, text):
    path = write(tmp_path / name, text)
    files = (path,) if name == "x.tsv" else (path, path)
    message = error_of(read_files, files, CONFIG)
    assert message.startswith(f"{path}, line 2 has a carriage return (\\r) inside it. Replace it")


@pytest.mark.parametrize("text", ["a\tA\r\nb\tB\r\n", "\ufeffa\tA\r\nb\tB", "a\tA\nb\tB\r\n"])
def test_windows_line_ends_are_line_ends(tmp_path, text):
    path = write(tmp_path / "x.tsv", text)
    assert read_files((path,), CONFIG)[0] == Pairs(["a", "b"], ["A", "B"])


def test_suffixes_in_capitals(tmp_path):
    for name, data in (
        ("x.TSV", b"a\tA\n"),
        ("x.Tsv.GZ", gzip.compress(b"a\tA\n")),
        ("x.JSONL", b'{"en":"a","de":"A"}'),
    ):
        assert read_files((write(tmp_path / name, data),), CONFIG)[0] == Pairs(["a"], ["A"])
    assert DataConfig(corpus="x.JSONL.XZ").is_one_file


def test_invalid_utf8(tmp_path):
    for name in ("x.en", "x.tsv", "x.jsonl"):
        path = write(tmp_path / name, b"fine\nfine\ncaf\xe9\n")
        read = read_all if name == "x.en" else lambda path: read_files((path,), CONFIG)
        assert error_of(read, path).startswith(f"{path}, line 3 is not UTF-8")


def test_decode_lines_names_what_it_is_given():
    assert decode_lines("a\u2028b\n".encode(), "standard input") == ["a\u2028b"]
    assert error_of(decode_lines, b"a\n\xff", "standard input").startswith("standard input, line 2 is not UTF-8")


def test_empty_side_names_file_line_and_side(tmp_path):
    files = write(tmp_path / "x.en", "a\nb\n"), write(tmp_path / "x.de", "A\n \t\n")
    assert error_of(read_files, files, CONFIG).startswith(f"{files[1]}, line 2 has an empty target. Fix it")
    path = write(tmp_path / "x.tsv", "a\tA\n\tB\n")
    assert error_of(read_files, (path,), CONFIG).startswith(f"{path}, line 2 has an empty source. Fix it")


def test_empty_corpus(tmp_path):
    empty = write(tmp_path / "empty.tsv", "")
    assert "No sentence pair" in error_of(read_files, (empty,), CONFIG)
    assert "No sentence pair" in error_of(read_files, (empty, empty), CONFIG)
    blank = write(tmp_path / "blank.en", "\n\n")
    message = error_of(read_pairs, DataConfig(train=(blank, blank), drop_empty=True), "train")
    assert "2 pairs read" in message
    assert "2 empty" in message


def test_tsv_columns(tmp_path):
    path = write(tmp_path / "x.tsv", "a\tA\nb\n")
    assert error_of(read_files, (path,), CONFIG).startswith(f"{path}, line 2 has 1 columns where 2 are expected")
    path = write(tmp_path / "tab.tsv", "a\tA\nb\tB\tand more\n")
    assert error_of(read_files, (path,), CONFIG).startswith(f"{path}, line 2 has 3 columns where 2 are expected")
    path = write(tmp_path / "narrow.tsv", "a\tA\n")
    message = error_of(read_files, (path,), DataConfig(tsv_columns=(0, 3)))
    assert message.startswith(f"{path}, line 1 has 2 columns where 4 are expected")


def test_unknown_suffix(tmp_path):
    path = write(tmp_path / "x.txt.gz", gzip.compress(b"a\tA\n"))
    message = error_of(read_files, (path,), CONFIG)
    assert message.startswith(path)
    assert ".jsonl" in message
    assert "two files" in message


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_damaged_compressed_files(tmp_path, suffix):
    whole = COMPRESS[suffix](lines(SOURCES).encode())
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for number, data in enumerate([b"not compressed", whole[:-5], flipped]):
        path = write(tmp_path / f"{number}.en{suffix}", data)
        assert error_of(read_all, path).startswith(f"{path} cannot be decompressed")


def test_zst_without_its_module(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert "pip install zstandard" in error_of(read_all, write(tmp_path / "x.zst", b""))


def test_hub_dataset(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(
            [{"translation": {"en": "a", "de": "A"}}, {"translation": {"en": "b", "de": "B"}}]
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = DataConfig(corpus="wmt14", corpus_config="de-en", train=("train[:2]",))
    pairs, report = read_pairs(config, "train")
    assert asked == [(("wmt14", "de-en"), {"split": "train[:2]"})]
    assert pairs == Pairs(["a", "b"], ["A", "B"])
    assert report.files == ("wmt14 de-en train[:2]",)


def test_hub_failure_is_an_input_error(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = error_of(read_pairs, DataConfig(corpus="some/name", test=("test",)), "test")
    assert message == "The Hugging Face dataset some/name test cannot be loaded: ConnectionError: no network"

"""Evaluation sets: files of text and of pairs, several references, and empty sides."""

import dataclasses
from pathlib import Path

import pytest

from transformer.config import DataConfig
from transformer.data.corpus import Pairs, read_files, read_pairs, read_parallel, read_references
from transformer.errors import InputError

CONFIG = DataConfig()


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def error_of(function, *arguments) -> str:
    with pytest.raises(InputError) as raised:
        function(*arguments)
    return str(raised.value)


def test_of_two_files_one_of_pairs_gives_its_own_side(tmp_path):
    """Read as text, a line of TSV would be a sentence on both sides."""
    tsv = write(tmp_path / "x.tsv", "a\tA\nb\tB\n")
    jsonl = write(tmp_path / "x.jsonl", '{"en": "a", "de": "A"}\n{"en": "b", "de": "B"}\n')
    text = write(tmp_path / "x.en", "a\nb\n"), write(tmp_path / "x.de", "A\nB\n")
    expected = Pairs(["a", "b"], ["A", "B"])
    for files in ((tsv, tsv), (jsonl, jsonl), (tsv, text[1]), (text[0], jsonl), text):
        assert read_files(files, CONFIG)[0] == expected
        assert read_parallel(*files, CONFIG) == expected
        assert read_pairs(DataConfig(train=files), "train")[0] == expected
    tagged = write(tmp_path / "tagged.jsonl", '{"en": "a", "de": "A", "tags": ["x"]}\n')
    assert read_references(tagged, [tagged], CONFIG).tags == read_references(tagged, [], CONFIG).tags == [("x",)]
    short = write(tmp_path / "short.de", "A\n")
    assert "has 2 lines, but" in error_of(read_files, (tsv, short), CONFIG)


def test_several_references(tmp_path):
    source, first = write(tmp_path / "x.en", "a\nb\n"), write(tmp_path / "x.de", "A\nB\n")
    second = write(tmp_path / "y.tsv", "a\tX\nb\tY\n")
    pairs = read_references(source, [first, second], CONFIG)
    assert pairs == Pairs(["a", "b"], ["A", "B"], further_references=(["X", "Y"],))
    gap = write(tmp_path / "gap.de", "\nZ\n")
    assert error_of(read_references, source, [first, gap], CONFIG).startswith(f"{gap}, line 1 has an empty target")
    assert read_references(source, [first, gap], CONFIG, empty="keep").further_references == (["", "Z"],)
    short = write(tmp_path / "short.de", "A\n")
    assert f"{source} has 2 lines, but {short} has 1" in error_of(read_references, source, [first, short], CONFIG)


def test_evaluation_sets_may_be_allowed_to_have_empty_sides(tmp_path):
    files = write(tmp_path / "x.en", "a\n\nc\nd\n"), write(tmp_path / "x.de", "A\nB\n \t\nD\n")
    config = DataConfig(train=files, validation=files, test=files)
    for split in ("validation", "test"):
        message = error_of(read_pairs, config, split)
        assert message.endswith("--data.allow-empty keeps such pairs in the validation and test sets.")
        pairs, report = read_pairs(dataclasses.replace(config, allow_empty=True), split)
        assert pairs == Pairs(["a", "", "c", "d"], ["A", "B", " \t", "D"])
        assert (report.read, report.kept, report.empty) == (4, 4, 2)
        assert str(report) == f"4 pairs read from {files[0]}, {files[1]}; 4 kept, 2 of them with an empty side."
    config = dataclasses.replace(config, allow_empty=True)
    assert error_of(read_pairs, config, "train").endswith("--data.drop-empty drops such pairs from the training data.")

"""Training pairs that are dropped when they are read, and the report on them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from transformer.config import DataConfig
from transformer.data.corpus import read_files, read_pairs
from transformer.data.duplicates import Seen
from transformer.data.pairs import Pairs, Report
from transformer.errors import InputError


def write(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def error_of(function, *args) -> str:
    with pytest.raises(InputError) as caught:
        function(*args)
    return str(caught.value)


def test_drop_empty_drops_both_sides_and_counts(tmp_path):
    files = write(tmp_path / "x.en", "a\n\nc\nd\n"), write(tmp_path / "x.de", "A\nB\n \t\nD\n")
    config = DataConfig(train=files, validation=files, drop_empty=True)
    pairs, report = read_pairs(config, "train")
    assert pairs == Pairs(["a", "d"], ["A", "D"])
    assert (report.read, report.kept, report.dropped) == (4, 2, {"empty": 2})
    assert str(report) == f"4 pairs read from {files[0]}, {files[1]}; 2 kept; dropped: 2 empty."
    # Other sets are refused, and so are training pairs without the option.
    for read, *arguments in ((read_pairs, config, "validation"), (read_files, files, DataConfig())):
        assert error_of(read, *arguments).startswith(f"{files[0]}, line 2 has an empty source. Fix it or remove")


def test_drop_duplicates_is_for_training_only(tmp_path):
    path = write(tmp_path / "x.tsv", "a\tA\nb\tB\na\tA\na\tC\na\tA\n")
    config = DataConfig(train=(path,), validation=(path,), drop_duplicates=True)
    pairs, report = read_pairs(config, "train")
    assert pairs == Pairs(["a", "b", "a"], ["A", "B", "C"])
    assert (report.read, report.kept, report.dropped) == (5, 3, {"duplicates": 2})
    assert len(read_pairs(config, "validation")[0].sources) == 5
    assert len(read_pairs(DataConfig(train=(path,)), "train")[0].sources) == 5


def test_sides_are_empty_and_pairs_the_same_when_normalized(tmp_path):
    path = write(tmp_path / "x.tsv", "a b\tA\n\u200b\ufeff\tB\na\u00a0b \tA\n\u00e9\tE\ne\u0301\tE\n")
    config = DataConfig(train=(path,), validation=(path,), drop_empty=True, drop_duplicates=True)
    pairs, report = read_pairs(config, "train")
    assert pairs == Pairs(["a b", "\u00e9"], ["A", "E"])
    assert report.dropped == {"empty": 1, "duplicates": 2}
    assert error_of(read_pairs, config, "validation").startswith(f"{path}, line 2 has an empty source")
    as_it_is = dataclasses.replace(config, normalization="none")
    assert read_pairs(as_it_is, "train")[1].dropped == {}
    assert len(read_pairs(as_it_is, "validation")[0].sources) == 5


def test_report_counts_only_what_is_dropped():
    report = Report(files=("x",), read=1200)
    report.drop("too long", 0)
    assert report.dropped == {}
    report.drop("too long", 3)
    assert str(report) == "1,200 pairs read from x; 1,197 kept; dropped: 3 too long."


def test_dropping_keeps_sides_together(tmp_path):
    rows = [("a", "A"), ("", "B"), ("a", "A"), ("c", "C")]
    path = write(tmp_path / "x.jsonl", "".join(json.dumps({"en": en, "de": de}) + "\n" for en, de in rows))
    pairs, report = read_pairs(DataConfig(train=(path,), drop_empty=True, drop_duplicates=True), "train")
    assert pairs == Pairs(["a", "c"], ["A", "C"])
    assert report.dropped == {"empty": 1, "duplicates": 1}


def test_repeated_pairs_are_found_in_a_stream_of_any_chunks():
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 3000, 10_000)
    texts = [("x" * (number % 7), f"{number}") for number in numbers.tolist()]
    expected = [texts.index(text) for text in dict.fromkeys(texts)]
    for size in (10_000, 999, 7):
        seen, found = Seen("none"), []
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            pairs = Pairs([source for source, _ in part], [target for _, target in part])
            found += [start + index for index in seen.first(pairs)]
        assert found == expected


def test_what_is_compared_is_the_pair_not_the_text_of_both_sides():
    pairs = Pairs(["a", "ab", "1 a", "", "a b", "a  b"], ["bc", "c", "", "1 a", "", ""])
    assert Seen("none").first(pairs) == [0, 1, 2, 3, 4, 5]
    assert Seen("nfc").first(pairs) == [0, 1, 2, 3, 4]
    assert Seen("nfc").first(Pairs([], [])) == []

"""Pairs with keys: JSONL and parquet, tags, antecedents, and several splits in one file."""

import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from transformer.config import DataConfig
from transformer.data.corpus import read_files, read_pairs, splits
from transformer.data.pairs import Antecedent, Pairs
from transformer.errors import InputError

CONFIG = DataConfig()
QUICKSTART = DataConfig(corpus="package:quickstart.jsonl.xz")


@pytest.fixture
def write(tmp_path):
    """Writes rows, or the text of a file, and returns the path."""

    def write(content, name="x.jsonl"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else "".join(f"{json.dumps(row)}\n" for row in content))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 is not a JSON object"),
        ("", "line 2 is not a JSON object"),
        ("[" * 100_000, "line 2 is not a JSON object (maximum recursion depth exceeded"),
        ('{"en": "a", "de": ' + "1" * 5_000 + "}", "line 2 is not a JSON object (Exceeds the limit"),
        ("[1]", "line 2 is a list, but must be an object with 'en' and 'de'"),
        ("null", "line 2 is None, but must be an object"),
        ('{"en": "a"}', "line 2 has no 'de'"),
        ('{"translation": {"de": "a"}}', "line 2 has no 'en'"),
        ('{"translation": null}', 'line 2: "translation" is None, but must be an object'),
        ('{"en": "a", "de": {}}', "line 2: 'de' must be a string, but is a dict"),
        ('{"en": "a", "de": null}', "line 2: 'de' must be a string, but is None"),
        ('{"en": 1.0, "de": "a"}', "line 2: 'en' must be a string, but is 1.0"),
        ('{"en": "\\ud800", "de": "a"}', "line 2: 'en' has an unpaired surrogate (U+D800), so it is not valid"),
    ],
)
def test_jsonl_rows(write, row, message):
    path = write(f'{{"en": "a", "de": "A"}}\n{row}\n')
    with pytest.raises(InputError, match=rf"^{re.escape(f'{path}, {message}')}"):
        read_files((path,), CONFIG)


def test_parquet_rows(write, tmp_path):
    path = str(tmp_path / "x.parquet")
    for columns, message in (
        ({"en": ["a", "b"], "de": ["A", None]}, "x.parquet, row 2: 'de' must be a string, but is None"),
        ({"fr": ["a", "b"]}, "x.parquet, row 1 has no 'en'"),
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(InputError, match=message):
            read_files((path,), CONFIG)
    write("no parquet", "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet is not a readable parquet file"):
        read_files((path,), CONFIG)


def test_tags_come_from_the_named_column(write, tmp_path):
    path = write([{"en": "a", "de": "A", "kind": ["x", "y"]}, {"translation": {"en": "b", "de": "B"}, "kind": []}])
    assert read_files((path,), DataConfig(tags="kind"))[0] == Pairs(["a", "b"], ["A", "B"], [("x", "y"), ()])
    assert read_files((path,), CONFIG)[0].tags is None
    assert read_pairs(DataConfig(tags="kind", train=(path,)), "train")[0].tags is None
    assert read_pairs(DataConfig(tags="kind", test=(path,)), "test")[0].tags == [("x", "y"), ()]
    plain = write("a\tA\n", "x.tsv")
    message = rf"^{plain} has no tags, but --data\.tags is kind\. Give a JSONL or parquet file"
    with pytest.raises(InputError, match=message):
        read_files((plain,), DataConfig(tags="kind"))
    message = rf"^{path}, line 1: 'sort' \(--data\.tags\) must be a list of strings, but is None\.$"
    with pytest.raises(InputError, match=message):
        read_files((path,), DataConfig(tags="sort"))
    table = pyarrow.table({"en": ["a"], "de": ["A"], "kind": [["x"]]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert read_files((str(tmp_path / "x.parquet"),), DataConfig(tags="kind"))[0].tags == [("x",)]


def test_tags_under_their_usual_key_need_no_option(write):
    rows = [{"en": "a", "de": "A", "tags": ["x"]}, {"en": "b", "de": "B", "tags": "noun"}, {"en": "c", "de": "C"}]
    path = write(rows)
    assert read_files((path,), CONFIG)[0].tags == [("x",), (), ()]
    assert read_pairs(DataConfig(train=(path,)), "train")[0].tags is None
    assert read_files((write(rows[1:]),), CONFIG)[0].tags is None  # nobody has asked for them


ITS = {"pronoun": "its", "noun": "law", "nouns": ["law", "use"], "owned": "use"}


def test_antecedents(write, tmp_path):
    rows = [{"en": "the law and its use", "de": "A", "antecedents": [ITS]}, {"en": "b", "de": "B"}]
    path = write(rows)
    pairs = read_pairs(DataConfig(test=(path,)), "test")[0]
    assert pairs.antecedents == [(Antecedent("its", "law", ("law", "use"), "use"),), ()]
    assert read_files((write(pairs.rows("en", "de")),), CONFIG)[0] == pairs
    assert read_pairs(DataConfig(train=(path,)), "train")[0].antecedents is None
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert read_files((str(tmp_path / "x.parquet"),), CONFIG)[0] == pairs
    rows[0]["antecedents"] = [{"pronoun": "it", "noun": "law", "nouns": ["law"]}]
    assert read_files((write(rows),), CONFIG)[0].antecedents == [(Antecedent("it", "law", ("law",)),), ()]


@pytest.mark.parametrize(
    "antecedents",
    [3, ["its"], [{**ITS, "noun": None}], [{**ITS, "nouns": ["use"]}], [{**ITS, "owned": "door"}], [{}]],
)
def test_a_key_of_this_name_may_mean_something_else(write, antecedents):
    path = write([{"en": "a", "de": "A", "antecedents": antecedents}])
    pairs, _ = read_files((path,), CONFIG)
    assert (pairs.sources, pairs.targets, pairs.antecedents) == (["a"], ["A"], None)


def test_selected_pairs_keep_what_they_are_annotated_with():
    its = Antecedent("its", "law", ("law",))
    pairs = Pairs(["a", "b", "c"], ["A", "B", "C"], [("x",), (), ("y",)], [(its,), (), ()])
    assert pairs.select([2, 0]) == Pairs(["c", "a"], ["C", "A"], [("y",), ("x",)], [(), (its,)])


ROWS = [
    {"set": "dev", "en": "a", "de": "A"},
    {"set": "train", "en": "b", "de": "B"},
    {"set": "dev", "en": "c", "de": "C"},
    {"set": "train", "translation": {"en": "", "de": "D"}},
    {"set": "train", "en": "e", "de": "E"},
]


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_one_file_may_hold_all_splits(write, tmp_path, name):
    path = str(tmp_path / name)
    if name == "x.jsonl":
        write(ROWS)
    else:
        rows = [row.get("translation", row) | {"set": row["set"]} for row in ROWS]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    config = DataConfig(corpus=path, split_key="set", train=("train",), validation=("dev",), drop_empty=True)
    assert splits(config) == ("train", "validation")
    assert read_pairs(config, "validation")[0] == Pairs(["a", "c"], ["A", "C"])
    pairs, report = read_pairs(config, "train")
    assert pairs == Pairs(["b", "e"], ["B", "E"])
    assert report.to_dict() == {"files": [path], "read": 3, "dropped": {"empty": 1}, "empty": 0, "kept": 2}
    unit = "line" if name == "x.jsonl" else "row"
    with pytest.raises(InputError, match=rf"{name}, {unit} 4 has an empty source"):
        read_pairs(DataConfig(corpus=path, split_key="set"), "train")
    with pytest.raises(InputError, match=rf"{name} has no pairs whose 'set' .* is 'test'\. .* --data\.corpus files"):
        read_pairs(DataConfig(corpus=path, split_key="set"), "test")
    with pytest.raises(InputError, match=rf"{name}, {unit} 1 has no 'split', .* Set --data\.split-key"):
        read_pairs(DataConfig(corpus=path), "train")
    assert len(read_files((path,), CONFIG if name == "x.parquet" else DataConfig(), empty="drop")[0].sources) == 4


def test_a_file_of_the_package_is_found_wherever_that_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^package:none\.jsonl cannot be read: No such file or directory\.$"):
        read_pairs(DataConfig(test=("package:none.jsonl",)), "test")
    assert splits(QUICKSTART) == ("train", "validation", "test")
    pairs, report = read_pairs(QUICKSTART, "test")
    assert str(report) == "2,000 pairs read from package:quickstart.jsonl.xz; 2,000 kept."
    assert len(pairs.sources) == len(pairs.targets) == len(pairs.tags or []) == len(pairs.antecedents or [])
    assert {antecedent.pronoun for own in pairs.antecedents or [] for antecedent in own} == {"it", "its"}

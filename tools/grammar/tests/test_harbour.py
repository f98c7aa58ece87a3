"""The corpus of words that the quickstart has not seen, written by a process of its own: it extends the lexicon."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from syntax import LEXICON, read_lexicon

NEW = read_lexicon("harbour.tsv").noun


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    file = tmp_path_factory.mktemp("harbour") / "mixed.jsonl"
    program = Path(__file__).parents[1] / "harbour.py"
    subprocess.run([sys.executable, program, file, "--old", "3"], check=True, capture_output=True)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_its_words_are_new():
    for language, plural in (("english", "english_plural"), ("german", "plural")):
        known = {getattr(noun, name) for noun in LEXICON.noun for name in (language, plural)}
        assert not known & {getattr(noun, name) for noun in NEW for name in (language, plural)}


def test_every_pair_has_a_new_word_on_both_sides(rows, corpus):
    *new, _, _, _ = rows
    english = re.compile("|".join(rf"\b({noun.english}|{noun.english_plural})\b" for noun in NEW), re.IGNORECASE)
    german = re.compile("|".join(rf"\b({noun.german}|{noun.genitive}|{noun.plural}n?)\b" for noun in NEW))
    assert all(english.search(row["en"]) and german.search(row["de"]) for row in new)
    assert not any(english.search(row["en"]) for split in corpus.values() for row in split)


def test_splits_and_old_pairs(rows, corpus):
    *new, first, second, third = rows
    assert [first["en"], second["en"], third["en"]] == [row["en"] for row in corpus["train"][:3]]
    sizes = {split: sum(row["split"] == split for row in new) for split in ("train", "validation", "test")}
    assert sizes == {"train": 5_000, "validation": 500, "test": 1_000}
    assert len({row["en"] for row in new}) == len(new)

import hashlib
import re
from collections import Counter

import pytest

from splits import HELD_OUT, SIZES, split_of
from syntax import LEXICON

TAGS = {
    "agreement",
    "antecedent-gender",
    "date",
    "dative",
    "distant-complement",
    "future",
    "genitive",
    "inversion",
    "modal",
    "negation",
    "number",
    "perfect",
    "possessive-pronoun",
    "pronoun",
    "relative-clause",
    "separable",
    "verb-last",
}
# SHA-256 of the first thousand training pairs. Changes to the lexicon or the templates change it, and belong in the
# change log, because scores from before and after cannot be compared.
FIRST_THOUSAND = "f2fd8cce4758f97287b18951777ee70e38dc7306e8d028bd8d55dff862f4922c"


def test_sizes_and_form(corpus):
    assert {split: len(corpus[split]) for split in SIZES} == {"train": 40_000, "validation": 1_000, "test": 2_000}
    for sentences in corpus.values():
        for sentence in sentences:
            assert sentence["tags"] == sorted({*sentence["tags"]})
            assert {*sentence["tags"]} <= TAGS
            for text in (sentence["en"], sentence["de"]):
                assert re.fullmatch(r"[A-ZÄÖÜ][A-Za-zäöüßÄÖÜ-]*(,? [A-Za-zäöüßÄÖÜ-]+)*\.", text), text
                assert 3 <= text.count(" ") + 1 <= 32, text


def test_the_target_is_a_function_of_the_source(corpus):
    targets = {}
    for sentences in corpus.values():
        for sentence in sentences:
            assert targets.setdefault(sentence["en"], sentence["de"]) == sentence["de"]


def test_splits_share_no_sentence(corpus):
    every = Counter(sentence["en"] for split in SIZES for sentence in corpus[split])
    assert max(every.values()) == 1


def test_combinations_of_the_test_set_are_not_in_training(corpus):
    # A sentence does not show its key, except for dates, whose key is the day and the month.
    dates = {}
    for split in SIZES:
        found = (re.search(r"the ([\w-]+) of ([A-Z]\w+)", sentence["en"]) for sentence in corpus[split])
        dates[split] = {match.groups() for match in found if match}
    assert len(dates["train"]) > 300
    assert len(dates["test"]) > 10
    assert not dates["train"] & dates["test"]
    assert not dates["train"] & dates["validation"]


def test_shares_of_the_splits():
    splits = Counter(split_of(("template", str(number))) for number in range(20_000))
    for split, share in HELD_OUT.items():
        assert splits[split] / 20_000 == pytest.approx(share, abs=0.005)


def words(text):
    return re.findall(r"[\w-]+", text)


def test_the_test_set_has_no_word_that_training_lacks(corpus):
    for side in ("en", "de"):
        known = {word for sentence in corpus["train"] for word in words(sentence[side])}
        for split in ("validation", "test"):
            assert {word for sentence in corpus[split] for word in words(sentence[side])} <= known


def test_each_word_of_the_lexicon_is_frequent_in_training(corpus):
    forms = Counter(word for sentence in corpus["train"] for word in words(sentence["en"]))
    text = "\n".join(f" {sentence['en'][0].lower()}{sentence['en'][1:-1]} " for sentence in corpus["train"])
    rare = {}
    for kind, rows in vars(LEXICON).items():
        for row in rows:
            ways = {row.english}
            if kind == "noun":
                ways |= {row.english_plural} - {""}
            elif kind == "verb":
                ways |= {row.third, row.past} | ({"are"} if row.english == "be" else set())
            elif kind == "modal":
                ways |= {row.english_plural}
            elif kind == "adjective":
                ways |= {row.comparative} - {""}
            count = sum(text.count(way) if " " in way else forms[way] for way in ways)
            if count < 40:
                rare[row.english] = count
    assert not rare


def test_each_phenomenon_has_a_hundred_test_sentences(corpus):
    counts = Counter(tag for sentence in corpus["test"] for tag in sentence["tags"])
    assert {*counts} == TAGS
    assert min(counts.values()) >= 100, counts


def test_the_antecedent_cannot_be_guessed_from_the_nearest_noun(corpus):
    # How often would the last German noun before er/sie/es give the right pronoun of a sentence with "it"?
    genders = {}
    for noun in LEXICON.noun:
        genders |= {noun.german: noun.gender, noun.genitive: noun.gender, noun.plural: "plural"}
    pronouns = {"m": {"er", "ihn"}, "f": {"sie"}, "n": {"es"}, "plural": {"sie"}}
    right = total = 0
    for sentence in corpus["test"]:
        if {"antecedent-gender", "pronoun"} <= {*sentence["tags"]} and "possessive-pronoun" not in sentence["tags"]:
            german_words = words(sentence["de"])
            position = max(i for i, word in enumerate(german_words) if word in ("er", "sie", "es", "ihn"))
            before = [genders[word] for word in german_words[:position] if word in genders]
            right += german_words[position] in pronouns[before[-1]]
            total += 1
    assert total > 100
    assert right / total < 0.6


def test_the_first_thousand_pairs_are_the_same_everywhere(corpus):
    text = "".join(f"{sentence['en']}\t{sentence['de']}\n" for sentence in corpus["train"][:1000])
    assert hashlib.sha256(text.encode()).hexdigest() == FIRST_THOUSAND

"""Checks of the rows written by hand.

Missing, doubled and irregular forms are mostly typing errors.
"""

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import syntax
from syntax import LEXICON

FILE = Path(syntax.__file__).with_name("lexicon.tsv")
ADJECTIVES = {adjective.english: adjective for adjective in LEXICON.adjective}
UMLAUTS = str.maketrans("äöü", "aou")


def test_headers_name_the_columns():
    headers = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and "\t" in line:
            kind, *columns = line[2:].split("\t")
            headers[kind] = columns
    for kind, rows in vars(LEXICON).items():
        assert headers[kind] == [column.name for column in fields(rows[0])]


def test_nouns():
    for noun in LEXICON.noun:
        assert noun.gender in ("m", "f", "n"), noun
        assert noun.german[0].isupper(), noun
        if noun.kind == "name":
            assert noun.english == noun.german
            continue
        stem = noun.german
        if noun.gender == "f":
            assert noun.genitive == stem, noun
        else:
            assert noun.genitive in {stem + ending for ending in ("s", "es", "ses", "n", "en")}, noun
            assert noun.gender == "m" or noun.genitive.endswith("s"), f"{noun}: only masculines are weak"
        if not noun.english_plural:
            assert not noun.plural, noun
            continue
        # Museum, Museen: the one plural that is not the singular, perhaps with an umlaut, and an ending
        base = "museum" if noun.english == "museum" else stem.lower().translate(UMLAUTS)
        plural = noun.plural.lower().translate(UMLAUTS)
        ending = plural.removeprefix("muse" if noun.english == "museum" else base)
        assert ending in ("", "e", "n", "en", "er", "s", "nen", "se", "ien"), noun
        if noun.gender == "m" and noun.genitive.endswith("n"):
            assert noun.plural == noun.genitive, noun


def test_verbs():
    for verb in LEXICON.verb:
        base = verb.german.removeprefix(verb.prefix)
        assert verb.prefix + base == verb.german
        assert verb.german.endswith("n"), verb
        assert verb.auxiliary in ("haben", "sein"), verb
        assert verb.participle.startswith(verb.prefix), verb
        inner = verb.participle.removeprefix(verb.prefix)
        inseparable = (
            re.match("be|er|ge(?=fall|hör)|ver|über|unter", base) or base.endswith("ieren") or inner == "bereitet"
        )
        assert inner.startswith("ge") is (not inseparable or base.startswith("ge")), f"{verb}: ge or no ge"
        assert inner.endswith(("t", "n")), verb
        assert verb.german_third.endswith("t") or verb.german == "sein", verb
        assert verb.third.split()[0].endswith("s"), verb
        assert not verb.prefix or verb.english != verb.past
        assert verb.past not in (verb.english, verb.third), f"{verb}: the tense would not show"


def test_adjectives():
    for adjective in LEXICON.adjective:
        assert adjective.german.startswith(adjective.stem[:2]), adjective
        assert bool(adjective.comparative) is bool(adjective.german_comparative), adjective
        if adjective.german_comparative and adjective.german != "gut":
            base = adjective.german_comparative.translate(UMLAUTS)
            assert base in (f"{word.translate(UMLAUTS)}er" for word in (adjective.german, adjective.stem)), adjective
        if adjective.comparative and adjective.english not in ("good", "bad"):
            assert adjective.comparative.startswith("more ") or adjective.comparative.endswith("er"), adjective
    assert {word for word, row in ADJECTIVES.items() if row.stem != row.german} == {
        "expensive",
        "dark",
        "tired",
        "high",
    }


def test_lists_name_classes_and_nouns_that_exist():
    known = {noun.kind for noun in LEXICON.noun} | {noun.english for noun in LEXICON.noun}
    kinds = {preposition.kind for preposition in LEXICON.preposition}
    for noun in LEXICON.noun:
        assert {*noun.wholes} <= known, noun
    for verb in LEXICON.verb:
        assert {*verb.subjects, *verb.objects} <= known, verb
        assert {*verb.prepositions} <= kinds, verb
        assert bool(verb.objects) is (verb.frame in ("direct", "indirect", "both", "change")), verb
    for row in (*LEXICON.adjective, *LEXICON.preposition):
        assert {*row.nouns} <= known, row
    for adverb in LEXICON.adverb:
        assert {*adverb.tenses} <= {"present", "past", "future", "modal"}, adverb


def test_an_english_form_belongs_to_one_word():
    forms = Counter()
    for noun in LEXICON.noun:
        forms.update({noun.english, noun.english_plural} - {""})
    for verb in LEXICON.verb:
        forms.update(f"{form} {verb.particle}" for form in {verb.english, verb.third, verb.past})
    for adjective in LEXICON.adjective:
        forms.update({adjective.english, adjective.comparative} - {""})
    for modal in LEXICON.modal:
        forms.update({modal.english, modal.english_plural})
    for row in (*LEXICON.preposition, *LEXICON.conjunction, *LEXICON.adverb, *LEXICON.month, *LEXICON.weekday):
        forms[row.english] += 1
    assert [form for form, count in forms.items() if count > 1] == []


def test_every_noun_has_enough_to_be_said_of_it():
    # A third adjective must remain after the noun's own and the one that an earlier clause has said of it.
    for noun in LEXICON.noun:
        adjectives = [adjective for adjective in LEXICON.adjective if noun.is_among(adjective.nouns)]
        assert len({adjective.scale or adjective.english for adjective in adjectives}) >= 3, noun

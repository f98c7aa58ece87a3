import pytest
from babel import Locale
from num2words import num2words

import english
import german
from syntax import LEXICON, Case, Form

FORMS: tuple[Form, ...] = ("m", "f", "n", "plural")
CASES: tuple[Case, ...] = ("nominative", "accusative", "dative", "genitive")
NOUNS = {noun.english: noun for noun in LEXICON.noun}

# Written by hand. The columns are old man (m), old woman (f), old house (n) and old men (plural).
PARADIGMS = {
    "der": """
        der alte Mann | die alte Frau | das alte Haus | die alten Männer
        den alten Mann | die alte Frau | das alte Haus | die alten Männer
        dem alten Mann | der alten Frau | dem alten Haus | den alten Männern
        des alten Mannes | der alten Frau | des alten Hauses | der alten Männer""",
    "dies": """
        dieser alte Mann | diese alte Frau | dieses alte Haus | diese alten Männer
        diesen alten Mann | diese alte Frau | dieses alte Haus | diese alten Männer
        diesem alten Mann | dieser alten Frau | diesem alten Haus | diesen alten Männern
        dieses alten Mannes | dieser alten Frau | dieses alten Hauses | dieser alten Männer""",
    "ein": """
        ein alter Mann | eine alte Frau | ein altes Haus | alte Männer
        einen alten Mann | eine alte Frau | ein altes Haus | alte Männer
        einem alten Mann | einer alten Frau | einem alten Haus | alten Männern
        eines alten Mannes | einer alten Frau | eines alten Hauses | alter Männer""",
    "kein": """
        kein alter Mann | keine alte Frau | kein altes Haus | keine alten Männer
        keinen alten Mann | keine alte Frau | kein altes Haus | keine alten Männer
        keinem alten Mann | keiner alten Frau | keinem alten Haus | keinen alten Männern
        keines alten Mannes | keiner alten Frau | keines alten Hauses | keiner alten Männer""",
}


@pytest.mark.parametrize("stem", PARADIGMS)
def test_paradigms_of_determiner_adjective_and_noun(stem):
    rows = [line.strip().split(" | ") for line in PARADIGMS[stem].strip().splitlines()]
    columns = list(zip(FORMS, ("man", "woman", "house", "man"), strict=True))
    for case, row in zip(CASES, rows, strict=True):
        for (form, name), expected in zip(columns, row, strict=True):
            bare = stem == "ein" and form == "plural"  # the indefinite article has no plural
            word, shown = ("", False) if bare else german.determiner(stem, case, form)
            adjective = "alt" + german.adjective_ending(case, form, shown=shown)
            noun = german.noun(NOUNS[name], case, plural=form == "plural")
            assert f"{word} {adjective} {noun}".strip() == expected


def test_strong_endings_in_the_singular_without_a_determiner():
    # kalter Kaffee, heiße Milch, frisches Brot, a paradigm that every grammar book has
    expected = ("er en em en", "e e er er", "es es em en")
    for form, endings in zip(FORMS[:3], expected, strict=True):
        assert [german.adjective_ending(case, form, shown=False) for case in CASES] == endings.split()


@pytest.mark.parametrize(
    ("name", "singular", "plural"),
    [
        ("boy", "Junge Jungen Jungen Jungen", "Jungen Jungen Jungen Jungen"),
        ("neighbour", "Nachbar Nachbarn Nachbarn Nachbarn", "Nachbarn Nachbarn Nachbarn Nachbarn"),
        ("elephant", "Elefant Elefanten Elefanten Elefanten", "Elefanten Elefanten Elefanten Elefanten"),
        ("child", "Kind Kind Kind Kindes", "Kinder Kinder Kindern Kinder"),
        ("car", "Auto Auto Auto Autos", "Autos Autos Autos Autos"),
        ("daughter", "Tochter Tochter Tochter Tochter", "Töchter Töchter Töchtern Töchter"),
        ("garden", "Garten Garten Garten Gartens", "Gärten Gärten Gärten Gärten"),
        ("museum", "Museum Museum Museum Museums", "Museen Museen Museen Museen"),
    ],
)
def test_paradigms_of_nouns(name, singular, plural):
    assert [german.noun(NOUNS[name], case, plural=False) for case in CASES] == singular.split()
    assert [german.noun(NOUNS[name], case, plural=True) for case in CASES] == plural.split()


def test_relative_pronouns():
    expected = ("der die das die", "den die das die", "dem der dem denen")
    for case, row in zip(CASES[:3], expected, strict=True):
        assert [german.relative_pronoun(case, form) for form in FORMS] == row.split()


def test_numbers_and_ordinals_against_num2words():
    for number in range(100):
        assert german.cardinal(number) == num2words(number, lang="de")
        assert english.cardinal(number) == num2words(number, lang="en")
    for number in range(1, 100):
        assert f"{german.ordinal(number)}e" == num2words(number, lang="de", to="ordinal")
        assert english.ordinal(number) == num2words(number, lang="en", to="ordinal")


def test_months_and_weekdays_against_cldr():
    for language, attribute in (("en", "english"), ("de", "german")):
        locale = Locale(language)
        months = [getattr(month, attribute) for month in LEXICON.month]
        assert months == [locale.months["format"]["wide"][number] for number in range(1, 13)]
        weekdays = [getattr(weekday, attribute) for weekday in LEXICON.weekday]
        assert weekdays == [locale.days["format"]["wide"][number] for number in range(7)]

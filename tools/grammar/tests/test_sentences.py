"""Trees written by hand, with their sentences in both languages."""

from dataclasses import replace
from typing import Any

import pytest

import english
import german
from splits import phenomena, spell
from syntax import LEXICON, Clause, Compound, Date, Gap, Phrase, Place, Predicate, Pronoun

NOUN = {noun.english: noun for noun in LEXICON.noun}
VERB = {verb.name: verb for verb in LEXICON.verb}
ADJECTIVE = {adjective.english: adjective for adjective in LEXICON.adjective}
MODAL = {modal.english: modal for modal in LEXICON.modal}
CONJUNCTION = {conjunction.english: conjunction for conjunction in LEXICON.conjunction}
PREPOSITION = {preposition.english: preposition for preposition in LEXICON.preposition}
ADVERB = {adverb.english: adverb for adverb in LEXICON.adverb}
DAY = {day.english: day for day in (*LEXICON.month, *LEXICON.weekday)}


def np(text: str, **more: Any) -> Phrase:
    """Parses a noun phrase such as `the old house` or, in the plural, `the old house +`."""
    *words, name = text.removesuffix(" +").split()
    determiner, *adjective = words or [""]
    written: Any = determiner
    phrase = Phrase(
        NOUN[name],
        written,
        plural=text.endswith("+"),
        adjective=ADJECTIVE[adjective[0]] if adjective else None,
    )
    return replace(phrase, **more)


def gap(text: str) -> Gap:
    phrase = np(text)
    return Gap(phrase.noun, phrase.form)


def be(subject: Phrase | Pronoun, adjective: str, **more: Any) -> Clause:
    return replace(Clause(VERB["be"], subject, predicate=Predicate(ADJECTIVE[adjective])), **more)


def modal(name: str) -> dict[str, Any]:
    return {"tense": "modal", "modal": MODAL[name]}


LAW = np("the law")
LAMP, KEY, COAT = np("the lamp"), np("a key"), np("the coat")
UNCLE, LADIES, CHILD = np("the uncle"), np("the lady +"), np("the child")
IN_THE_CITY = Place(PREPOSITION["in"], np("the city"))
TEACHERS = np("the teacher +", relative=Clause(VERB["live"], gap("the teacher +"), place=IN_THE_CITY))
THIRD_OF_MAY = Date(DAY["Monday"], 3, DAY["May"])
# The examples of the lecture, and every rule of word order once.
PAIRS = [
    (
        Compound(
            be(LAW, "perfect", tense="future"),
            CONJUNCTION["but"],
            be(np("the application", determiner=Pronoun(LAW)), "just", **modal("should")),
        ),
        "The law will be perfect, but its application should be just.",
        "Das Gesetz wird perfekt sein, aber seine Anwendung sollte gerecht sein.",
        "antecedent-gender future modal possessive-pronoun",
    ),
    (
        Clause(
            VERB["make"],
            np("the new law +"),
            direct=np("the work", owner=TEACHERS),
            predicate=Predicate(ADJECTIVE["difficult"], comparative=True),
        ),
        "The new laws make the work of the teachers who live in the city more difficult.",
        "Die neuen Gesetze machen die Arbeit der Lehrer, die in der Stadt wohnen, schwieriger.",
        "agreement dative distant-complement genitive relative-clause verb-last",
    ),
    (
        Compound(
            Clause(VERB["turn off"], np("Peter"), direct=Pronoun(LAMP), **modal("wants to")),
            CONJUNCTION["when"],
            Clause(VERB["turn on"], LADIES, direct=LAMP),
            other_first=True,
        ),
        "When the ladies turn on the lamp, Peter wants to turn it off.",
        "Wenn die Damen die Lampe einschalten, will Peter sie ausschalten.",
        "antecedent-gender inversion modal pronoun separable verb-last",
    ),
    (
        Compound(
            Clause(VERB["lose"], UNCLE, direct=KEY, tense="past"),
            CONJUNCTION["but"],
            Clause(VERB["find"], np("Anna"), direct=Pronoun(KEY), tense="past", negated=True),
        ),
        "The uncle lost a key, but Anna did not find it.",
        "Der Onkel hat einen Schlüssel verloren, aber Anna hat ihn nicht gefunden.",
        "antecedent-gender negation perfect pronoun",
    ),
    (
        Clause(VERB["arrive"], UNCLE, tense="past", time=THIRD_OF_MAY, time_first=True),
        "On Monday, the third of May, the uncle arrived.",
        "Am Montag, dem dritten Mai, ist der Onkel angekommen.",
        "date inversion perfect separable",
    ),
    (
        Clause(VERB["close"], UNCLE, direct=np("a door"), time=Date(None, 21, DAY["March"])),
        "The uncle closes a door on the twenty-first of March.",
        "Der Onkel macht am einundzwanzigsten März eine Tür zu.",
        "date separable",
    ),
    (
        Clause(VERB["give"], UNCLE, CHILD, np("a old book +", number=47), negated=True, time=ADVERB["today"]),
        "The uncle does not give the child forty-seven old books today.",
        "Der Onkel gibt dem Kind heute keine siebenundvierzig alten Bücher.",
        "agreement dative negation number",
    ),
    (
        Clause(VERB["sell"], np("no farmer"), direct=np("this black horse"), tense="past"),
        "No farmer sold this black horse.",
        "Kein Bauer hat dieses schwarze Pferd verkauft.",
        "agreement negation perfect",
    ),
    (
        Clause(VERB["go"], LADIES, place=Place(PREPOSITION["to"], np("the small school")), negated=True),
        "The ladies do not go to the small school.",
        "Die Damen gehen nicht zur kleinen Schule.",
        "agreement dative negation",
    ),
    (
        be(
            np("the child +", relative=Clause(VERB["thank"], UNCLE, gap("the child +"), tense="past")),
            "happy",
            negated=True,
            **modal("may"),
        ),
        "The children whom the uncle thanked must not be happy.",
        "Die Kinder, denen der Onkel gedankt hat, dürfen nicht glücklich sein.",
        "dative modal negation perfect relative-clause verb-last",
    ),
    (
        Clause(
            VERB["believe"],
            np("Maria"),
            content=Clause(
                VERB["invite"], np("every aunt"), direct=np("a boy", determiner=Pronoun(LADIES)), negated=True
            ),
        ),
        "Maria believes that every aunt does not invite their boy.",
        "Maria glaubt, dass jede Tante ihren Jungen nicht einlädt.",
        "negation possessive-pronoun separable verb-last",
    ),
    (
        Clause(
            VERB["need"],
            np("the baker", relative=Clause(VERB["sell"], gap("the baker"), direct=np("a fresh egg +"))),
            direct=np("a cow"),
            negated=True,
        ),
        "The baker who sells fresh eggs does not need a cow.",
        "Der Bäcker, der frische Eier verkauft, braucht keine Kuh.",
        "agreement negation relative-clause verb-last",
    ),
    (
        Compound(
            Clause(VERB["follow"], np("the cat"), np("a owner", determiner=Pronoun(np("the cat"))), tense="past"),
            CONJUNCTION["because"],
            Clause(VERB["walk"], Pronoun(np("the owner")), place=Place(PREPOSITION["into"], np("the castle"))),
        ),
        "The cat followed its owner because he walks into the castle.",
        "Die Katze ist ihrem Besitzer gefolgt, weil er ins Schloss läuft.",
        "antecedent-gender dative perfect possessive-pronoun pronoun verb-last",
    ),
]


@pytest.mark.parametrize(("tree", "source", "target", "tags"), PAIRS, ids=[source for _, source, _, _ in PAIRS])
def test_pairs_by_hand(tree, source, target, tags):
    assert spell(english.sentence(tree)) == source
    assert spell(german.sentence(tree)) == target
    assert phenomena(tree) == tuple(tags.split())

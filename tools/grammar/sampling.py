"""Random phrases and clauses for the templates, within what the lexicon allows."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

from syntax import (
    LEXICON,
    Adjective,
    Adverb,
    Clause,
    Conjunction,
    Determiner,
    Gap,
    Modal,
    Nominal,
    Noun,
    Phrase,
    Place,
    Predicate,
    Pronoun,
    Tense,
    Verb,
)

T = TypeVar("T")


class Pick:
    """A random generator that gives the same draws in every version of Python.

    It uses `Random.random` alone, whose sequence for a seed Python guarantees.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def __call__(self, options: Sequence[T]) -> T:
        """Draws one of the options, each with the same probability."""
        return options[int(self._random() * len(options))]

    def chance(self, probability: float) -> bool:
        """Returns True with this probability."""
        return self._random() < probability


# --- What is drawn from; an option that is listed n times is drawn n times as often -----------------------------------

TENSES: tuple[Tense, ...] = ("present", "present", "present", "past", "past", "past", "future", "modal", "modal")
ANY: tuple[Determiner, ...] = ("the", "the", "the", "the", "this", "a", "a", "a", "every")
ANY_OR_NO: tuple[Determiner, ...] = (*ANY, *ANY, "no")
SOME: tuple[Determiner, ...] = ("the", "the", "this", "a")
DEFINITE: tuple[Determiner, ...] = ("the", "the", "this")
NEGATED: tuple[Determiner, ...] = ("the", "this", "a", "a")
MONTH_DAYS = [
    (month, day)
    for month, length in zip(LEXICON.month, (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True)
    for day in range(1, length + 1)
]
OWNABLE = ("clothing", "thing", "device", "vehicle", "animal", "text")


@cache
def nouns(names: tuple[str, ...]) -> list[Noun]:
    """The nouns that a list in the lexicon names, without first names."""
    return [noun for noun in LEXICON.noun if noun.is_among(names) and noun.kind != "name"]


@cache
def verbs(*frames: str) -> list[Verb]:
    """The verbs that have one of these frames."""
    return [verb for verb in LEXICON.verb if verb.frame in frames]


@cache
def verbs_with(noun: Noun, *frames: str) -> list[Verb]:
    """The verbs that have one of these frames and allow the noun as their object."""
    return [verb for verb in verbs(*frames) if noun.is_among(verb.objects)]


@cache
def adjectives(noun: Noun) -> list[Adjective]:
    """The adjectives that can describe a noun."""
    return [adjective for adjective in LEXICON.adjective if noun.is_among(adjective.nouns)]


@cache
def modals(*, person: bool) -> list[Modal]:
    """The modal verbs that allow a person, or a thing, as their subject."""
    return [modal for modal in LEXICON.modal if person or modal.subjects == "any"]


@cache
def adverbs(tense: Tense) -> list[Adverb]:
    """The adverbs of time that agree with a tense."""
    return [adverb for adverb in LEXICON.adverb if tense in adverb.tenses]


NAMES = [noun for noun in LEXICON.noun if noun.kind == "name"]
PERSONS = nouns(("person",))
SEXED = [noun for noun in (*PERSONS, *NAMES) if noun.has_sex]
THINGS = [noun for noun in LEXICON.noun if not (noun.is_person or noun.wholes)]
PARTS = {whole: [part for part in LEXICON.noun if whole in nouns(part.wholes)] for whole in LEXICON.noun}
WHOLES = [whole for whole, parts in PARTS.items() if parts]
SINGLE = nouns(
    (
        "mother", "grandmother", "roof", "tail", "engine", "colour", "price", "title", "taste", "application",
        "purpose", "meaning", "beginning", "end", "work",
    )
)  # fmt: skip
"""Parts and aspects of which a whole has exactly one."""
INTRANSITIVE = [verb for verb in verbs("none") if "person" in verb.subjects]
TRANSITIVE = [verb for verb in verbs("direct", "indirect", "both") if "person" in verb.subjects]
ACTIONS = [*TRANSITIVE, *INTRANSITIVE]
PERSONAL = [verb for verb in verbs("direct", "indirect") if "person" in verb.subjects and "person" in verb.objects]
(BE,), (MAKE,) = verbs("predicate"), verbs("change")
CHANGEABLE = [(noun, one) for noun in nouns(MAKE.objects) for one in adjectives(noun) if one.comparative]
CONJUNCTIONS = {conjunction.english: conjunction for conjunction in LEXICON.conjunction}
SUBORDINATING = [conjunction for conjunction in LEXICON.conjunction if conjunction.kind == "subordinating"]


# --- Phrases and clauses ----------------------------------------------------------------------------------------------


def phrase(
    pick: Pick,
    noun: Noun,
    determiners: Sequence[Determiner],
    *,
    plural: bool | None = None,
    bare: bool = False,
) -> Phrase:
    """Draws a noun phrase with a determiner and perhaps an adjective.

    Args:
        pick: The random generator.
        noun: The head.
        determiners: The determiners to draw from.
        plural: Whether the phrase is plural. None draws it.
        bare: Whether a plural may go without a determiner ("a" in the tree).
    """
    if noun.kind == "name":
        return Phrase(noun, "")
    if not noun.english_plural:
        plural, determiners = False, ("the",)
    elif plural is None:
        plural = pick.chance(0.35)
    determiner = pick(determiners)
    if plural and (determiner == "every" or (determiner == "a" and not bare)):
        determiner = "the"
    adjective = pick(adjectives(noun)) if pick.chance(0.35) else None
    return Phrase(noun, determiner, plural, adjective)


def participant(
    pick: Pick,
    names: tuple[str, ...],
    determiners: Sequence[Determiner],
    *,
    bare: bool = False,
    no_it: bool = False,
    unlike: Nominal | None = None,
) -> Phrase:
    """Draws a noun phrase for a role in a clause.

    Args:
        pick: The random generator.
        names: Nouns and classes of nouns that the lexicon allows in this role.
        determiners: The determiners to draw from.
        bare: Whether a plural may go without a determiner.
        no_it: Avoid what "it" could stand for, so that the pronoun of the sentence has one possible antecedent.
        unlike: A nominal with another noun than the one drawn.
    """
    options = NAMES if "person" in names and pick.chance(0.12) else nouns(names)
    noun = pick(options)
    while unlike and noun is unlike.noun:
        noun = pick(options)
    return phrase(pick, noun, determiners, plural=True if no_it and not noun.has_sex else None, bare=bare)


def action(
    pick: Pick,
    options: Sequence[Verb],
    *,
    subject: Nominal | None = None,
    patient: Nominal | None = None,
    tenses: Sequence[Tense] = TENSES,
    no_it: bool = False,
) -> Clause:
    """Draws a clause with one of the verbs.

    Args:
        pick: The random generator.
        options: The verbs.
        subject: The subject. None draws one that the verb allows.
        patient: The object, or the direct object of a verb with two. None draws one that the verb allows.
        tenses: The tenses to draw from.
        no_it: Avoid what "it" could stand for in everything that is drawn.
    """
    verb = pick(options)
    negated = is_definite(subject) and is_definite(patient) and pick.chance(0.12)
    if subject is None:
        subject = participant(pick, verb.subjects, DEFINITE if negated else ANY_OR_NO, no_it=no_it)
    # After a relative clause, a place would seem to belong to the relative clause.
    room_for_place = not (isinstance(patient, Phrase) and patient.relative)
    if patient is None and verb.objects:
        determiners = NEGATED if negated else ANY
        patient = participant(pick, verb.objects, determiners, bare=True, no_it=no_it, unlike=subject)
        patient = perhaps_owned(pick, patient, subject)
    recipient = place = None
    if verb.frame == "both":
        recipient = participant(pick, ("person",), DEFINITE, no_it=no_it, unlike=subject)
    if verb.frame == "place" or (verb.prepositions and room_for_place and pick.chance(0.25)):
        preposition = pick([one for one in LEXICON.preposition if one.kind in verb.prepositions])
        place = Place(preposition, participant(pick, preposition.nouns, SOME, bare=True, no_it=no_it, unlike=subject))
        negated = negated and preposition.kind != "benefit"
    indirect, direct = (patient, None) if verb.frame == "indirect" else (recipient, patient)
    tense = pick(tenses)
    if tense == "modal" and isinstance(subject, Phrase) and subject.determiner == "no":
        tense = "present"  # "no guest must sleep" is ambiguous (darf or muss)
    modal = pick(modals(person=subject.noun.is_person)) if tense == "modal" else None
    return Clause(verb, subject, indirect, direct, tense, modal, negated, place)


def is_definite(nominal: Nominal | None) -> bool:
    """Whether "not" cannot negate it. "Every guest does not sleep" is ambiguous."""
    return not (isinstance(nominal, Phrase) and nominal.determiner in ("a", "every", "no"))


def perhaps_owned(pick: Pick, owned: Phrase, owner: Nominal) -> Phrase:
    """Sometimes replaces the article of a phrase by the owner's possessive."""
    if (
        isinstance(owner, Phrase)
        and owner.determiner in ("the", "this", "")
        and (owner.noun.has_sex or (owner.plural and owner.noun.is_person))
        and (owned.noun.kind in OWNABLE or "person" in owned.noun.wholes)
        and pick.chance(0.15)
    ):
        return replace(owned, determiner=Pronoun(owner))
    return owned


def predicate(pick: Pick, subject: Phrase | Pronoun, *, beside: Clause | None = None) -> Clause:
    """Draws a clause that says of the subject what it is, will be or should be.

    Args:
        pick: The random generator.
        subject: The subject. The predicate neither repeats nor contradicts its adjective.
        beside: The other clause of the sentence, whose predicate is neither repeated nor contradicted.
    """
    own = (subject.antecedent if isinstance(subject, Pronoun) else subject).adjective
    said = beside.predicate.adjective if beside and beside.predicate else None
    adjective = pick([one for one in adjectives(subject.noun) if one.goes_with(own) and one.goes_with(said)])
    tense = pick(("present", "present", "present", "future", "modal"))
    modal = pick([one for one in modals(person=False) if one.english != "can"]) if tense == "modal" else None
    negated = is_definite(subject) and pick.chance(0.12)
    return Clause(BE, subject, tense=tense, modal=modal, negated=negated, predicate=Predicate(adjective))


def timed(pick: Pick, clause: Clause) -> Clause:
    """Adds an adverb of time to the clause, at its start or end."""
    return replace(clause, time=pick(adverbs(clause.tense)), time_first=pick.chance(0.6))


def relative_clause(pick: Pick, head: Phrase, *, no_it: bool = False) -> Clause:
    """Draws a clause about a head, such as "whom the aunt thanks"."""
    gap, noun = Gap(head.noun, head.form), head.noun
    if noun.is_person and pick.chance(0.5):
        return action(pick, ACTIONS if pick.chance(0.7) else verbs("place"), subject=gap, no_it=no_it)
    if (takers := verbs_with(noun, "indirect")) and pick.chance(0.5):
        return action(pick, takers, patient=gap, no_it=no_it)
    return action(pick, verbs_with(noun, "direct", "both"), patient=gap, no_it=no_it)


def tenses_around(pick: Pick, conjunction: Conjunction) -> tuple[Sequence[Tense], Sequence[Tense]]:
    """Returns the tenses that a conjunction allows in both clauses, main clause first."""
    match conjunction.tenses:
        case "free":
            return TENSES, TENSES
        case "present":
            return ("present", "future", "modal"), ("present",)
        case "same":
            same: tuple[Tense, ...] = (pick(("present", "past")),)
            return same, same


def belonging(pick: Pick, part: Noun, determiner: Determiner | Pronoun, whole: Phrase) -> Phrase:
    """Draws a noun phrase for a part or an aspect, such as "the door of the house"."""
    plural = False if part in SINGLE and not whole.plural else None
    owned = replace(phrase(pick, part, DEFINITE, plural=plural), determiner=determiner)
    return replace(owned, owner=whole) if determiner == "the" else owned


def somebody(pick: Pick) -> Phrase:
    """Draws one or more persons for a sentence with "it", perhaps with a clause."""
    return with_bystanders(pick, participant(pick, ("person",), SOME, no_it=True), 0.2)


def with_bystanders(pick: Pick, head: Phrase, probability: float = 1.0) -> Phrase:
    """Adds, with this probability, a relative clause without an antecedent for "it"."""
    if head.noun.kind == "name" or not pick.chance(probability):
        return head
    return replace(head, relative=relative_clause(pick, head, no_it=True))


def reporting(pick: Pick, content: Clause, subject: Phrase | None = None) -> Clause:
    """Draws a clause that reports another one ("Anna believes that ...")."""
    tenses: tuple[Tense, ...] = ("present", "past") if content.tense == "past" else ("present",)
    return replace(action(pick, verbs("content"), subject=subject, tenses=tenses), content=content)


def topic(clause: Clause) -> tuple[str, str]:
    """Returns two words for a key, the predicate and object, else place, else subject."""
    word = clause.predicate.adjective.english if clause.predicate else clause.verb.name
    place = clause.place.phrase if clause.place else None
    return word, (clause.direct or clause.indirect or place or clause.subject).noun.english

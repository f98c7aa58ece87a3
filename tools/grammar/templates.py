"""The templates of the quickstart's corpus.

Each template draws one kind of tree, and returns it with the words of its key (see `splits`). Its docstring is an
example.

Every pronoun has one possible antecedent. In sentences with "it" or "its", all other nouns are persons or plurals
(`no_it`). In sentences with "he", "she" or "they", no other noun has that sex or number.
"""

from collections.abc import Callable
from dataclasses import replace

from sampling import (
    ACTIONS,
    CHANGEABLE,
    CONJUNCTIONS,
    DEFINITE,
    INTRANSITIVE,
    MAKE,
    MONTH_DAYS,
    PARTS,
    PERSONAL,
    PERSONS,
    SEXED,
    SOME,
    SUBORDINATING,
    THINGS,
    TRANSITIVE,
    WHOLES,
    Pick,
    action,
    adjectives,
    belonging,
    nouns,
    participant,
    phrase,
    predicate,
    relative_clause,
    reporting,
    somebody,
    tenses_around,
    timed,
    topic,
    verbs,
    verbs_with,
    with_bystanders,
)
from syntax import LEXICON, Clause, Compound, Date, Predicate, Pronoun

Drawn = tuple[tuple[str, ...], Clause | Compound]
"""The words of the key, and the tree."""


def statement(pick: Pick) -> Drawn:
    """The farmer sold the old horse."""
    clause = action(pick, TRANSITIVE)
    return topic(clause), timed(pick, clause) if pick.chance(0.4) else clause


def whereabouts(pick: Pick) -> Drawn:
    """In the evening the children sing in the garden."""
    clause = action(pick, verbs("none", "place"))
    key = (clause.subject.noun.english, *topic(clause))
    return key, timed(pick, clause) if not clause.place or pick.chance(0.4) else clause


def dated(pick: Pick) -> Drawn:
    """On Monday, the third of May, the uncle will arrive."""
    clause = action(pick, ACTIONS)
    weekday, (month, day) = pick(LEXICON.weekday), pick(MONTH_DAYS)
    if pick.chance(0.15):
        date, key = Date(weekday), (weekday.english, clause.verb.name)
    else:
        date, key = Date(weekday if pick.chance(0.5) else None, day, month), (month.english, str(day))
    return key, replace(clause, time=date, time_first=pick.chance(0.6))


def counted(pick: Pick) -> Drawn:
    """The baker needs forty-seven eggs. The nine old judges are tired."""
    number = pick(range(2, 100))
    if pick.chance(0.6):
        verb = pick(TRANSITIVE)
        noun = pick([noun for noun in nouns(verb.objects) if noun.english_plural])
        many = replace(phrase(pick, noun, ("a", "a", "the", "this"), plural=True, bare=True), number=number)
        clause = action(pick, [verb], patient=many)
    else:
        noun = pick(PERSONS)
        many = replace(phrase(pick, noun, DEFINITE, plural=True), number=number)
        clause = action(pick, ACTIONS, subject=many)
    return (str(number), noun.english), clause


def part_of_a_whole(pick: Pick) -> Drawn:
    """The roof of the old house is red. The man closes the door of the kitchen."""
    whole = pick(WHOLES)
    part = pick(PARTS[whole])
    owned = belonging(pick, part, "the", phrase(pick, whole, SOME))
    takers = verbs_with(part, "direct", "indirect")
    if part.is_person and pick.chance(0.4):
        clause = action(pick, ACTIONS, subject=owned)
    elif takers and pick.chance(0.5):
        clause = action(pick, takers, patient=owned)
    else:
        clause = predicate(pick, owned)
    return (part.english, whole.english), clause


def described(pick: Pick) -> Drawn:
    """A cold cellar must be dark."""
    noun = pick(THINGS)
    thing = phrase(pick, noun, ("a", "a", "a", "the", "this", "every"), plural=False)
    thing = replace(thing, adjective=pick(adjectives(noun)))
    clause = predicate(pick, thing)
    return topic(clause), clause


def joined(pick: Pick) -> Drawn:
    """If the guest sleeps, the lady turns on the lamp."""
    conjunction = pick(SUBORDINATING)
    tenses, other_tenses = tenses_around(pick, conjunction)
    main, other = action(pick, ACTIONS, tenses=tenses), action(pick, ACTIONS, tenses=other_tenses)
    return (conjunction.english, *topic(other)), Compound(main, conjunction, other, pick.chance(0.5))


def reported(pick: Pick) -> Drawn:
    """Anna believes that the judge will reject the proposal."""
    if pick.chance(0.3):
        content = predicate(pick, participant(pick, ("person", "food", "text", "building", "abstract"), SOME))
    else:
        content = action(pick, ACTIONS)
    clause = reporting(pick, content)
    return (clause.verb.name, *topic(content)), clause


def with_relative_clause(pick: Pick) -> Drawn:
    """The friend whom the children invite is tired. Maria loves the dress that the aunt tried on."""
    noun = pick(PERSONS if pick.chance(0.6) else THINGS)
    head = phrase(pick, noun, SOME)
    relative = relative_clause(pick, head)
    head = replace(head, relative=relative)
    if pick.chance(0.4):
        clause = predicate(pick, head)
    elif noun.is_person and pick.chance(0.5):
        clause = action(pick, ACTIONS, subject=head)
    else:
        clause = action(pick, verbs_with(noun, "direct", "indirect"), patient=head)
    return (noun.english, relative.verb.name), clause


def it_as_subject(pick: Pick) -> Drawn:
    """The aunt sold the lamp because it is ugly. The lamp that the women bought is old, but it is beautiful."""
    noun = pick(THINGS)
    thing = phrase(pick, noun, SOME, plural=False)
    if pick.chance(0.3):
        main = predicate(pick, with_bystanders(pick, thing))
        conjunction = pick(("but", "and", "although"))
    else:
        main = action(pick, verbs_with(noun, "direct"), subject=somebody(pick), patient=thing, no_it=True)
        conjunction = pick(("but", "because", "although"))
    other = predicate(pick, Pronoun(thing), beside=main)
    key = topic(other)
    if conjunction == "but" and pick.chance(0.5):
        other = reporting(pick, other)
    return key, Compound(main, CONJUNCTIONS[conjunction], other)


def it_as_object(pick: Pick) -> Drawn:
    """When Peter buys the coat, the aunt washes it. The lady lost the key, but the boys who help her found it."""
    noun = pick(THINGS)
    thing = phrase(pick, noun, SOME, plural=False)
    takers = verbs_with(noun, "direct")
    verb = pick(takers)
    others = [taker for taker in takers if taker is not verb]
    antecedent_first = pick.chance(0.35)
    if antecedent_first:
        conjunction = pick(SUBORDINATING)
        tenses, antecedent_tenses = tenses_around(pick, conjunction)
    else:
        conjunction = CONJUNCTIONS[pick(("but", "and", "because", "although"))]
        antecedent_tenses, tenses = tenses_around(pick, conjunction)
    antecedent = action(pick, others, subject=somebody(pick), patient=thing, tenses=antecedent_tenses, no_it=True)
    # German has no room for a relative clause between the finite verb and the pronoun (lobt der Mann sie).
    subject = participant(pick, ("person",), SOME, no_it=True) if antecedent_first else somebody(pick)
    clause = action(pick, [verb], subject=subject, patient=Pronoun(thing), tenses=tenses, no_it=True)
    main, other = (clause, antecedent) if antecedent_first else (antecedent, clause)
    return (noun.english, verb.name), Compound(main, conjunction, other, antecedent_first)


def its(pick: Pick) -> Drawn:
    """The law will be perfect, but its application should be just. The dog follows its owner."""
    whole = pick([whole for whole in WHOLES if not whole.is_person])
    part = pick(PARTS[whole])
    thing = phrase(pick, whole, SOME, plural=False)
    owned = belonging(pick, part, Pronoun(thing), thing)
    key = (part.english, whole.english)
    if part.is_person and whole.kind == "animal" and pick.chance(0.5):
        loyal = [verb for verb in verbs_with(part, "indirect") if whole.is_among(verb.subjects)]
        return key, action(pick, loyal, subject=thing, patient=owned)
    takers, keepers = verbs_with(part, "direct", "indirect"), verbs_with(whole, "direct")
    if keepers and pick.chance(0.5):
        main = action(pick, keepers, subject=somebody(pick), patient=thing, no_it=True)
        conjunction = pick(("but", "because", "although"))
    else:
        main = predicate(pick, with_bystanders(pick, thing, 0.4))
        conjunction = pick(("but", "and", "although"))
    if takers and pick.chance(0.4):
        other = action(pick, takers, subject=somebody(pick), patient=owned, no_it=True)
    else:
        other = predicate(pick, owned, beside=main)
    return key, Compound(main, CONJUNCTIONS[conjunction], other)


def persons(pick: Pick) -> Drawn:
    """The doctor helped the actress because she is sick. When the uncle arrives, Anna thanks him."""
    noun = pick(SEXED)
    someone = phrase(pick, noun, SOME)
    them = Pronoun(someone)
    other_sex = [one for one in SEXED if someone.plural or one.gender != noun.gender]
    bystander = phrase(pick, pick(other_sex), SOME, plural=False if someone.plural else None)
    shape = pick(("because", "when", "that"))
    if shape == "because":
        other = predicate(pick, them)
        subject, patient = pick(((someone, bystander), (bystander, someone)))
        main = action(pick, PERSONAL, subject=subject, patient=patient)
        conjunction = CONJUNCTIONS[pick(("because", "although", "but"))]
        return topic(other), Compound(main, conjunction, other)
    if shape == "when":
        conjunction = pick(SUBORDINATING)
        tenses, other_tenses = tenses_around(pick, conjunction)
        main = action(pick, PERSONAL, subject=bystander, patient=them, tenses=tenses)
        other = replace(action(pick, INTRANSITIVE, subject=someone, tenses=other_tenses), place=None)
        return (noun.english, main.verb.name), Compound(main, conjunction, other, other_first=True)
    content = action(pick, PERSONAL, subject=them, patient=bystander)
    return (noun.english, content.verb.name), reporting(pick, content, someone)


def more_difficult(pick: Pick) -> Drawn:
    """The new laws make the work of the teachers who live in the city more difficult."""
    noun, adjective = pick(CHANGEABLE)
    owner = phrase(pick, pick(nouns(noun.wholes or ("person",))), SOME)
    if pick.chance(0.6):
        owner = replace(owner, relative=relative_clause(pick, owner))
    subject, patient = participant(pick, MAKE.subjects, SOME), belonging(pick, noun, "the", owner)
    clause = replace(action(pick, [MAKE], subject=subject, patient=patient), predicate=Predicate(adjective, True))
    key = (noun.english, adjective.english, owner.noun.english)
    return key, reporting(pick, clause) if pick.chance(0.2) else clause


TEMPLATES: tuple[Callable[[Pick], Drawn], ...] = (
    *[statement] * 4,
    *[whereabouts] * 2,
    *[dated] * 3,
    *[counted] * 3,
    *[part_of_a_whole] * 3,
    *[described] * 2,
    *[joined] * 3,
    *[reported] * 1,
    *[with_relative_clause] * 3,
    *[it_as_subject] * 2,
    *[it_as_object] * 2,
    *[its] * 3,
    *[persons] * 2,
    *[more_difficult] * 3,
)
"""Every template, repeated in proportion to how often it is drawn."""

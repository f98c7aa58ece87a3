"""English sentences from trees, the source side of the quickstart's corpus."""

from syntax import Adverb, Clause, Compound, Date, Form, Gap, Nominal, Phrase, Pronoun

_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {number: f"{number}th" for number in _NUMBERS} | {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_PLURAL_DETERMINERS = {"the": "the", "this": "these", "no": "no", "a": "", "": ""}
_SUBJECTS: dict[Form, str] = {"m": "he", "f": "she", "n": "it", "plural": "they"}
_OBJECTS: dict[Form, str] = {"m": "him", "f": "her", "n": "it", "plural": "them"}
_POSSESSIVES: dict[Form, str] = {"m": "his", "f": "her", "n": "its", "plural": "their"}


def cardinal(number: int) -> str:
    """Spells out a number from 0 to 99 ("forty-seven")."""
    if number < 20:
        return _NUMBERS[number]
    tens, unit = divmod(number, 10)
    return f"{_TENS[tens - 2]}-{_NUMBERS[unit]}" if unit else _TENS[tens - 2]


def ordinal(number: int) -> str:
    """Spells out the ordinal of a number from 1 to 99 ("twenty-first")."""
    *tens, last = cardinal(number).split("-")
    if last.endswith("y"):
        return f"{last[:-1]}ieth"
    return "-".join([*tens, _ORDINALS[last]])


def sentence(tree: Clause | Compound) -> list[str]:
    """Returns the words and commas of a sentence, in order."""
    if isinstance(tree, Clause):
        return _clause(tree)
    main, other = _clause(tree.main), [tree.conjunction.english, *_clause(tree.other)]
    if tree.other_first:
        return [*other, ",", *main]
    return [*main, ",", *other] if tree.conjunction.kind == "coordinating" else [*main, *other]


def _clause(clause: Clause) -> list[str]:
    """Orders a clause as subject, verb, objects, predicate, place and time.

    The time may come first instead.
    """
    subject, time, particle = _nominal(clause.subject, _SUBJECTS), _time(clause.time), clause.verb.particle.split()
    words = [*time, *subject] if clause.time_first else [*subject]
    words += [*_verb(clause), *_nominal(clause.indirect, _OBJECTS)]
    # "turns on the lamp", but "turns it on"
    direct = _nominal(clause.direct, _OBJECTS)
    words += [*direct, *particle] if isinstance(clause.direct, Pronoun) else [*particle, *direct]
    if clause.predicate:
        adjective = clause.predicate.adjective
        words.append(adjective.comparative if clause.predicate.comparative else adjective.english)
    if clause.place:
        words += [clause.place.preposition.english, *_phrase(clause.place.phrase)]
    if not clause.time_first:
        words += time
    return [*words, "that", *_clause(clause.content)] if clause.content else words


def _verb(clause: Clause) -> list[str]:
    """Returns the verb with its auxiliary and "not", such as "does not buy"."""
    verb, plural, negation = clause.verb, clause.subject.form == "plural", ["not"] if clause.negated else []
    if clause.modal:
        if clause.negated:
            return [clause.modal.negated_plural if plural else clause.modal.negated, verb.english]
        return [clause.modal.english_plural if plural else clause.modal.english, verb.english]
    if clause.tense == "future":
        return ["will", *negation, verb.english]
    if verb.frame == "predicate":
        return ["are" if plural else "is", *negation]
    if clause.tense == "past":
        return ["did not", verb.english] if clause.negated else [verb.past]
    if clause.negated:
        return ["do not" if plural else "does not", verb.english]
    return [verb.english if plural else verb.third]


def _nominal(nominal: Nominal | None, pronouns: dict[Form, str]) -> list[str]:
    match nominal:
        case Phrase():
            return _phrase(nominal)
        case Pronoun():
            return [pronouns[_sex(nominal)]]
        case Gap() | None:
            return []


def _sex(pronoun: Pronoun) -> Form:
    """Returns the form that chooses the English pronoun.

    A singular person is he or she, any other singular is it.
    """
    return pronoun.form if pronoun.form == "plural" or pronoun.antecedent.noun.is_person else "n"


def _phrase(phrase: Phrase) -> list[str]:
    """Orders a noun phrase.

    The order is determiner, number, adjective, noun, "of" with an owner, and relative clause.
    """
    noun = phrase.noun.english_plural if phrase.plural else phrase.noun.english
    words = [cardinal(phrase.number)] if phrase.number else []
    words += [phrase.adjective.english, noun] if phrase.adjective else [noun]
    if isinstance(phrase.determiner, Pronoun):
        determiner = _POSSESSIVES[_sex(phrase.determiner)]
    elif phrase.plural:
        determiner = _PLURAL_DETERMINERS[phrase.determiner]
    elif phrase.determiner == "a":
        determiner = "an" if words[0][0] in "aeiou" else "a"
    else:
        determiner = phrase.determiner
    if determiner:
        words.insert(0, determiner)
    if phrase.owner:
        words += ["of", *_phrase(phrase.owner)]
    if phrase.relative:
        pronoun = "that"
        if phrase.noun.is_person:
            pronoun = "who" if isinstance(phrase.relative.subject, Gap) else "whom"
        words += [pronoun, *_clause(phrase.relative)]
    return words


def _time(time: Adverb | Date | None) -> list[str]:
    match time:
        case Adverb():
            return [time.english]
        case Date():
            month_day = ["the", ordinal(time.day), "of", time.month.english] if time.day and time.month else []
            if not time.weekday:
                return ["on", *month_day]
            return ["on", time.weekday.english, *([",", *month_day, ","] if month_day else [])]
        case None:
            return []

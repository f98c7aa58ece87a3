"""German sentences from trees, the target side of the quickstart's corpus.

Inflection comes first, then noun phrases, then clauses. Clauses are built from topological fields (Vorfeld, linke
Klammer, Mittelfeld, rechte Klammer, Nachfeld), the usual description of German word order.
"""

from syntax import (
    Adverb,
    Case,
    Clause,
    Compound,
    Date,
    Form,
    Gap,
    Nominal,
    Noun,
    Phrase,
    Place,
    Pronoun,
)

# --- Inflection -------------------------------------------------------------------------------------------------------

#             der    die    das    die (plural)
_ARTICLES: dict[Case, dict[Form, str]] = {
    "nominative": {"m": "der", "f": "die", "n": "das", "plural": "die"},
    "accusative": {"m": "den", "f": "die", "n": "das", "plural": "die"},
    "dative": {"m": "dem", "f": "der", "n": "dem", "plural": "den"},
    "genitive": {"m": "des", "f": "der", "n": "des", "plural": "der"},
}
# of dieser and jeder, and of ein, kein, sein and ihr in the forms that have an ending
_ENDINGS: dict[Case, dict[Form, str]] = {
    "nominative": {"m": "er", "f": "e", "n": "es", "plural": "e"},
    "accusative": {"m": "en", "f": "e", "n": "es", "plural": "e"},
    "dative": {"m": "em", "f": "er", "n": "em", "plural": "en"},
    "genitive": {"m": "es", "f": "er", "n": "es", "plural": "er"},
}
_PRONOUNS: dict[Case, dict[Form, str]] = {
    "nominative": {"m": "er", "f": "sie", "n": "es", "plural": "sie"},
    "accusative": {"m": "ihn", "f": "sie", "n": "es", "plural": "sie"},
    "dative": {"m": "ihm", "f": "ihr", "n": "ihm", "plural": "ihnen"},
}
_CONTRACTIONS = {
    ("an", "dem"): "am",
    ("in", "dem"): "im",
    ("in", "das"): "ins",
    ("zu", "dem"): "zum",
    ("zu", "der"): "zur",
}
_DETERMINERS = {"the": "der", "this": "dies", "every": "jed", "a": "ein", "no": "kein"}
_NUMBERS = (
    "null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"
)  # fmt: skip
_TENS = ("zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig")
_ORDINALS = {1: "erst", 3: "dritt", 7: "siebt", 8: "acht"}


def determiner(stem: str, case: Case, form: Form) -> tuple[str, bool]:
    """Inflects a determiner.

    Args:
        stem: `der`, `dies`, `jed`, `ein`, `kein`, `sein` or `ihr`.
        case: Case of the noun phrase.
        form: Its gender, or plural.

    Returns: The determiner, and whether its ending shows gender, number and case.
    """
    if stem == "der":
        return _ARTICLES[case][form], True
    like_ein = stem not in ("dies", "jed")
    if like_ein and (case, form) in (("nominative", "m"), ("nominative", "n"), ("accusative", "n")):
        return stem, False
    return stem + _ENDINGS[case][form], True


def adjective_ending(case: Case, form: Form, *, shown: bool) -> str:
    """Returns the ending of an attributive adjective.

    Args:
        case: Case of the noun phrase.
        form: Its gender, or plural.
        shown: Whether the phrase has a determiner with an ending. If so, the ending is weak (der alte, einem alten).
            Otherwise it is strong, like the endings of dieser (ein alter, sieben alte).
    """
    if shown:
        singular_e = ("nominative m", "nominative f", "nominative n", "accusative f", "accusative n")
        return "e" if f"{case} {form}" in singular_e else "en"
    if case == "genitive" and form in ("m", "n"):
        return "en"  # because the noun shows the genitive
    return _ENDINGS[case][form]


def noun(noun: Noun, case: Case, *, plural: bool) -> str:
    """Inflects a noun."""
    if plural:
        return noun.plural + ("n" if case == "dative" and noun.plural[-1] not in "ns" else "")
    weak = noun.gender == "m" and noun.genitive.endswith("n")  # der Junge, den Jungen
    if case == "genitive" or (weak and case != "nominative"):
        return noun.genitive
    return noun.german


def relative_pronoun(case: Case, form: Form) -> str:
    """Returns the relative pronoun, the article except in the dative plural (denen)."""
    return "denen" if (case, form) == ("dative", "plural") else _ARTICLES[case][form]


def cardinal(number: int) -> str:
    """Spells out a number from 0 to 99 (siebenundvierzig)."""
    if number < 13:
        return _NUMBERS[number]
    tens, unit = divmod(number, 10)
    if tens == 1:
        return {6: "sech", 7: "sieb"}.get(unit, _NUMBERS[unit]) + "zehn"
    before = {0: "", 1: "einund"}.get(unit, f"{_NUMBERS[unit]}und")
    return before + _TENS[tens - 2]


def ordinal(number: int) -> str:
    """Returns the stem of the ordinal of a number from 1 to 99 (einundzwanzigst)."""
    if number in _ORDINALS:
        return _ORDINALS[number]
    return cardinal(number) + ("t" if number < 20 else "st")


# --- Noun phrases -----------------------------------------------------------------------------------------------------


def _nominal(nominal: Nominal | None, case: Case, *, negated: bool = False) -> list[str]:
    match nominal:
        case Phrase():
            return _phrase(nominal, case, negated=negated)
        case Pronoun():
            return [_PRONOUNS[case][nominal.form]]
        case Gap() | None:
            return []


def _phrase(phrase: Phrase, case: Case, *, negated: bool = False) -> list[str]:
    """Orders a noun phrase, with genitive attribute and relative clause at its end."""
    form, shown, words = phrase.form, False, []
    if stem := _determiner_stem(phrase, negated=negated):
        word, shown = determiner(stem, case, form)
        words.append(word)
    if phrase.number:
        words.append(cardinal(phrase.number))
    if phrase.adjective:
        words.append(phrase.adjective.stem + adjective_ending(case, form, shown=shown))
    words.append(noun(phrase.noun, case, plural=phrase.plural))
    if phrase.owner:
        words += _phrase(phrase.owner, "genitive")
    if phrase.relative:
        words += [",", *_relative_clause(phrase.relative), ","]
    return words


def _determiner_stem(phrase: Phrase, *, negated: bool) -> str:
    if isinstance(phrase.determiner, Pronoun):
        return "sein" if phrase.determiner.form in ("m", "n") else "ihr"
    if phrase.determiner == "a" and negated:
        return "kein"
    if phrase.determiner == "" or (phrase.determiner == "a" and phrase.plural):
        return ""
    return _DETERMINERS[phrase.determiner]


def _place(place: Place) -> list[str]:
    """Returns a prepositional phrase (im Garten, zur Schule, mit dem Freund)."""
    first, *others = _phrase(place.phrase, place.preposition.case)
    preposition = place.preposition.german
    if (preposition, first) in _CONTRACTIONS:
        return [_CONTRACTIONS[preposition, first], *others]
    return [preposition, first, *others]


def _time(time: Adverb | Date | None) -> list[str]:
    """Returns an adverb or a date (heute; am Montag, dem dritten Mai)."""
    match time:
        case Adverb():
            return [time.german]
        case Date():
            month_day = [f"{ordinal(time.day)}en", time.month.german] if time.day and time.month else []
            if not time.weekday:
                return ["am", *month_day]
            return ["am", time.weekday.german, *([",", "dem", *month_day, ","] if month_day else [])]
        case None:
            return []


# --- Clauses ----------------------------------------------------------------------------------------------------------


def sentence(tree: Clause | Compound) -> list[str]:
    """Returns the words of a sentence and its commas, doubled between clauses."""
    if isinstance(tree, Clause):
        return _main_clause(tree)
    conjunction = tree.conjunction.german
    if tree.conjunction.kind == "coordinating":
        return [*_main_clause(tree.main), ",", conjunction, *_main_clause(tree.other)]
    other = _subordinate_clause([conjunction], tree.other)
    if tree.other_first:
        return _main_clause(tree.main, first=[*other, ","])
    return [*_main_clause(tree.main), ",", *other]


def _main_clause(clause: Clause, first: list[str] | None = None) -> list[str]:
    """Orders a main clause.

    The order is Vorfeld, finite verb, Mittelfeld, the rest of the verb, and Nachfeld. The Vorfeld holds exactly one
    constituent, which is `first` (a clause), else a time, else the subject. The subject follows the finite verb if
    another constituent comes first.
    """
    subject, time = _nominal(clause.subject, "nominative"), _time(clause.time)
    finite, rest = _verb(clause)
    if first:
        opening, middle = first, [*subject, *_middle_field(clause, time)]
    elif clause.time_first:
        opening, middle = time, [*subject, *_middle_field(clause, [])]
    else:
        opening, middle = subject, _middle_field(clause, time)
    return [*opening, finite, *middle, *rest, *_content(clause)]


def _subordinate_clause(opening: list[str], clause: Clause) -> list[str]:
    """Orders a subordinate clause after its conjunction or relative pronoun."""
    finite, rest = _verb(clause)
    middle = [*_nominal(clause.subject, "nominative"), *_middle_field(clause, _time(clause.time))]
    if rest == [clause.verb.prefix]:  # macht ... auf, but dass er ... aufmacht
        return [*opening, *middle, clause.verb.prefix + finite, *_content(clause)]
    return [*opening, *middle, *rest, finite, *_content(clause)]


def _relative_clause(clause: Clause) -> list[str]:
    """Orders a relative clause. Its pronoun has the gender and number of the head."""
    roles: list[tuple[Nominal | None, Case]] = [
        (clause.subject, "nominative"),
        (clause.indirect, "dative"),
        (clause.direct, "accusative"),
    ]
    (opening,) = (relative_pronoun(case, gap.form) for gap, case in roles if isinstance(gap, Gap))
    return _subordinate_clause([opening], clause)


def _content(clause: Clause) -> list[str]:
    return [",", *_subordinate_clause(["dass"], clause.content)] if clause.content else []


def _middle_field(clause: Clause, time: list[str]) -> list[str]:
    """Orders what follows the subject and the finite verb.

    The order is pronoun, definite dative, time, indefinite dative, accusative, nicht, place, predicate. An object with
    the indefinite article, or in the plural without an article, is negated by kein, and everything else by nicht.
    """
    direct = _nominal(clause.direct, "accusative", negated=clause.negated)
    indirect = _nominal(clause.indirect, "dative", negated=clause.negated)
    words = direct if isinstance(clause.direct, Pronoun) else []
    words = [*words, *time, *indirect] if _is_new(clause.indirect) else [*words, *indirect, *time]
    words += [] if isinstance(clause.direct, Pronoun) else direct
    if clause.negated and not (_is_indefinite(clause.direct) or _is_indefinite(clause.indirect)):
        words.append("nicht")
    if clause.place:
        words += _place(clause.place)
    if clause.predicate:
        adjective = clause.predicate.adjective
        words.append(adjective.german_comparative if clause.predicate.comparative else adjective.german)
    return words


def _is_indefinite(nominal: Nominal | None) -> bool:
    return isinstance(nominal, Phrase) and nominal.determiner == "a"


def _is_new(nominal: Nominal | None) -> bool:
    """Whether a nominal introduces something new (ein Freund, kein Freund, Freunde)."""
    return _is_indefinite(nominal) or (isinstance(nominal, Phrase) and nominal.determiner == "no")


def _verb(clause: Clause) -> tuple[str, list[str]]:
    """Returns the finite verb, and its prefix, participle or infinitive."""
    verb, plural = clause.verb, clause.subject.form == "plural"
    if clause.modal:
        return clause.modal.plural if plural else clause.modal.german, [verb.german]
    if clause.tense == "future":
        return "werden" if plural else "wird", [verb.german]
    if clause.tense == "past":
        singular_plural = ("hat", "haben") if verb.auxiliary == "haben" else ("ist", "sind")
        return singular_plural[plural], [verb.participle]
    finite = verb.german_third
    if plural:
        finite = "sind" if verb.german == "sein" else verb.german.removeprefix(verb.prefix)
    return finite, [verb.prefix] if verb.prefix else []

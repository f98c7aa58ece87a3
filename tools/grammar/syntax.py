"""The abstract syntax of the quickstart corpus, independent of a language.

`english` and `german` each turn a tree into a sentence. Together they are a synchronous grammar, in the manner of
Grammatical Framework (Ranta, 2011).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

Case = Literal["nominative", "accusative", "dative", "genitive"]
Form = Literal["m", "f", "n", "plural"]
"""The form that articles, adjectives and pronouns agree with. It is a gender, or plural, which has no gender."""
Tense = Literal["present", "past", "future", "modal"]
Determiner = Literal["the", "this", "every", "a", "no", ""]

# --- Words. Each is a row of lexicon.tsv, where the columns are explained. --------------------------------------------


@dataclass(frozen=True, eq=False)  # each word exists once, so it is compared by identity
class Noun:
    """A noun, or a first name if its kind is `name`."""

    kind: str
    english: str
    english_plural: str
    gender: Literal["m", "f", "n"]
    german: str
    genitive: str
    plural: str
    wholes: tuple[str, ...]

    @property
    def is_person(self) -> bool:
        """Whether the English pronoun is "he" or "she"."""
        return self.kind in ("person", "name")

    @property
    def has_sex(self) -> bool:
        """Whether the pronoun shows the sex in both languages.

        It does not for "das Kind", the child.
        """
        return self.is_person and self.gender != "n"

    def is_among(self, names: tuple[str, ...]) -> bool:
        """Whether the names contain this noun or its kind."""
        return self.kind in names or self.english in names or (self.kind == "name" and "person" in names)


@dataclass(frozen=True, eq=False)
class Verb:
    """A verb with its principal parts and its frame."""

    english: str
    third: str
    past: str
    particle: str
    german: str
    german_third: str
    participle: str
    auxiliary: Literal["haben", "sein"]
    prefix: str
    frame: Literal["direct", "indirect", "both", "none", "place", "content", "predicate", "change"]
    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    prepositions: tuple[str, ...]

    @property
    def name(self) -> str:
        """The verb with its particle, such as "turn off", which is unique among the verbs."""
        return f"{self.english} {self.particle}".rstrip()


@dataclass(frozen=True, eq=False)
class Modal:
    """A modal verb."""

    english: str
    english_plural: str
    negated: str
    negated_plural: str
    german: str
    plural: str
    subjects: Literal["any", "person"]


@dataclass(frozen=True, eq=False)
class Adjective:
    """An adjective and the nouns that it suits."""

    english: str
    comparative: str
    german: str
    stem: str
    german_comparative: str
    scale: str
    nouns: tuple[str, ...]

    def goes_with(self, other: "Adjective | None") -> bool:
        """Whether both adjectives can describe the same thing.

        They must neither repeat nor contradict each other.
        """
        return other is None or (self is not other and (not self.scale or self.scale != other.scale))


@dataclass(frozen=True, eq=False)
class Preposition:
    """A preposition and the case that it governs."""

    english: str
    german: str
    case: Case
    kind: Literal["location", "direction", "companion", "benefit"]
    nouns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Conjunction:
    """A conjunction of clauses."""

    english: str
    german: str
    kind: Literal["coordinating", "subordinating"]
    tenses: Literal["free", "present", "same"]


@dataclass(frozen=True, eq=False)
class Adverb:
    """An adverb of time and the tenses that it goes with."""

    english: str
    german: str
    tenses: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Day:
    """A month or a weekday."""

    english: str
    german: str


@dataclass(frozen=True)
class Lexicon:
    """All words by kind.

    The names of the fields are the first cells of the rows in lexicon.tsv.
    """

    noun: tuple[Noun, ...]
    verb: tuple[Verb, ...]
    modal: tuple[Modal, ...]
    adjective: tuple[Adjective, ...]
    preposition: tuple[Preposition, ...]
    conjunction: tuple[Conjunction, ...]
    adverb: tuple[Adverb, ...]
    month: tuple[Day, ...]
    weekday: tuple[Day, ...]


_KINDS: dict[str, type[Any]] = {
    "noun": Noun,
    "verb": Verb,
    "modal": Modal,
    "adjective": Adjective,
    "preposition": Preposition,
    "conjunction": Conjunction,
    "adverb": Adverb,
    "month": Day,
    "weekday": Day,
}


def _read_lexicon() -> Lexicon:
    words: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    text = Path(__file__).with_name("lexicon.tsv").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            kind, *cells = line.split("\t")
            columns = zip(fields(_KINDS[kind]), cells, strict=True)
            words[kind].append(_KINDS[kind](*(_cell(cell, column.type) for column, cell in columns)))
    return Lexicon(**{kind: tuple(rows) for kind, rows in words.items()})


def _cell(cell: str, annotation: object) -> str | tuple[str, ...]:
    text = "" if cell == "-" else cell
    return text if annotation != tuple[str, ...] else tuple(filter(None, text.split(",")))


LEXICON = _read_lexicon()


# --- Trees ------------------------------------------------------------------------------------------------------------


class Tree:
    """A node of the abstract syntax."""

    __slots__ = ()

    def nodes(self) -> Iterator["Tree"]:
        """This node and all nodes below it."""
        yield self
        for name in self.__slots__:
            child = getattr(self, name)
            if isinstance(child, Tree):
                yield from child.nodes()


@dataclass(frozen=True, slots=True)
class Phrase(Tree):
    """A noun phrase, such as "the door of the old house" or "its application".

    "Forty-seven apples" and "Anna" are noun phrases, too.
    """

    noun: Noun
    determiner: "Determiner | Pronoun"
    """A pronoun makes a possessive (its, seine). "a" with a plural or a number adds no word, because the indefinite
    article has no plural. Names have no determiner."""
    plural: bool = False
    adjective: Adjective | None = None
    number: int | None = None
    owner: "Phrase | None" = None
    """The genitive attribute, such as "of the house"."""
    relative: "Clause | None" = None
    """A relative clause, in which a `Gap` represents this phrase."""

    @property
    def form(self) -> Form:
        """The form that its German words agree with."""
        return "plural" if self.plural else self.noun.gender


@dataclass(frozen=True, slots=True)
class Pronoun(Tree):
    """A personal pronoun, or a possessive if it is a determiner.

    English chooses it by sex, German by grammatical gender.
    """

    antecedent: Phrase

    @property
    def noun(self) -> Noun:
        """The noun that the pronoun refers to."""
        return self.antecedent.noun

    @property
    def form(self) -> Form:
        """The form of its antecedent, with which it agrees in German."""
        return self.antecedent.form


@dataclass(frozen=True, slots=True)
class Gap(Tree):
    """The position in a relative clause from which its head is missing.

    It becomes the relative pronoun.
    """

    noun: Noun
    form: Form


Nominal = Phrase | Pronoun | Gap


@dataclass(frozen=True, slots=True)
class Place(Tree):
    """A prepositional phrase, such as "in the garden"."""

    preposition: Preposition
    phrase: Phrase


@dataclass(frozen=True, slots=True)
class Date(Tree):
    """A weekday, a day of a month, or both, such as "on Monday, the third of May"."""

    weekday: Day | None
    day: int | None = None
    month: Day | None = None


@dataclass(frozen=True, slots=True)
class Predicate(Tree):
    """The predicative adjective in "is difficult" or "makes the work more difficult"."""

    adjective: Adjective
    comparative: bool = False


@dataclass(frozen=True, slots=True)
class Clause(Tree):
    """A verb with its subject, objects and modifiers."""

    verb: Verb
    subject: Nominal
    indirect: Nominal | None = None
    """The object that is in the dative in German."""
    direct: Nominal | None = None
    """The object that is in the accusative in German."""
    tense: Tense = "present"
    modal: Modal | None = None
    """The modal verb if the tense is `modal`, else None."""
    negated: bool = False
    place: Place | None = None
    time: Adverb | Date | None = None
    time_first: bool = False
    predicate: Predicate | None = None
    content: "Clause | None" = None
    """The clause after "that", for verbs such as "believe"."""


@dataclass(frozen=True, slots=True)
class Compound(Tree):
    """Two clauses joined by a conjunction, which introduces `other`."""

    main: Clause
    conjunction: Conjunction
    other: Clause
    other_first: bool = False
    """Whether the subordinate clause comes before the main clause."""

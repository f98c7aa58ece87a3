"""The abstract syntax of the corpus, its words and its language-independent trees.

`english` and `german` each translate a tree into words. Together they are a synchronous grammar in the style of
Grammatical Framework (Ranta, 2011).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

Case = Literal["nominative", "accusative", "dative", "genitive"]
Form = Literal["m", "f", "n", "plural"]
"""What articles, adjectives and pronouns agree with. The plural does not distinguish genders."""
Tense = Literal["present", "past", "future", "modal"]
Determiner = Literal["the", "this", "every", "a", "no", ""]

# --- Words, the rows of lexicon.tsv, whose comments explain the columns -----------------------------------------------


@dataclass(frozen=True, eq=False)  # each word exists once, so words are compared by identity
class Noun:
    """A noun, or a first name if its class is `name`."""

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
        """Whether English refers to it as he or she."""
        return self.kind in ("person", "name")

    @property
    def has_sex(self) -> bool:
        """Whether both languages refer to it as he or she. A child (das Kind) can be "it"."""
        return self.is_person and self.gender != "n"

    def is_among(self, names: tuple[str, ...]) -> bool:
        """Whether the list names this noun or its class."""
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
        """The name of the verb, with its particle ("turn off")."""
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
    """An adjective and the nouns that it can describe."""

    english: str
    comparative: str
    german: str
    stem: str
    german_comparative: str
    scale: str
    nouns: tuple[str, ...]

    def goes_with(self, other: "Adjective | None") -> bool:
        """Whether both can describe the same thing without repetition or contradiction."""
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
    """An adverb of time and the tenses that it agrees with."""

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
    """All words by kind. The fields have the names of the kinds in lexicon.tsv."""

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


def read_lexicon(*names: str) -> Lexicon:
    """Reads the words of one or more files in this folder."""
    words: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    text = "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names)
    for line in text.splitlines():
        if line and not line.startswith("#"):
            kind, *cells = line.split("\t")
            columns = zip(fields(_KINDS[kind]), cells, strict=True)
            words[kind].append(_KINDS[kind](*(_cell(cell, column.type) for column, cell in columns)))
    return Lexicon(**{kind: tuple(rows) for kind, rows in words.items()})


def _cell(cell: str, annotation: object) -> str | tuple[str, ...]:
    text = "" if cell == "-" else cell
    return text if annotation != tuple[str, ...] else tuple(filter(None, text.split(",")))


LEXICON = read_lexicon("lexicon.tsv")


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
    """A noun phrase such as "the door of the old house" or "forty-seven apples"."""

    noun: Noun
    determiner: "Determiner | Pronoun"
    """A pronoun here is a possessive (its, seine). The indefinite article has no plural form, so "a" with a plural or a
    number produces no word. Names have no determiner."""
    plural: bool = False
    adjective: Adjective | None = None
    number: int | None = None
    owner: "Phrase | None" = None
    """The genitive attribute ("of the house")."""
    relative: "Clause | None" = None
    """A relative clause, in which a `Gap` represents this phrase."""

    @property
    def form(self) -> Form:
        """The form that its German words agree with."""
        return "plural" if self.plural else self.noun.gender


@dataclass(frozen=True, slots=True)
class Pronoun(Tree):
    """A personal pronoun, or a possessive as a determiner.

    English chooses the pronoun by sex, German by grammatical gender.
    """

    antecedent: Phrase

    @property
    def noun(self) -> Noun:
        """The noun of the antecedent."""
        return self.antecedent.noun

    @property
    def form(self) -> Form:
        """The form of the antecedent, with which the pronoun agrees."""
        return self.antecedent.form


@dataclass(frozen=True, slots=True)
class Gap(Tree):
    """The role of a head in its relative clause, expressed by the relative pronoun."""

    noun: Noun
    form: Form


Nominal = Phrase | Pronoun | Gap


@dataclass(frozen=True, slots=True)
class Place(Tree):
    """A prepositional phrase such as "in the garden"."""

    preposition: Preposition
    phrase: Phrase


@dataclass(frozen=True, slots=True)
class Date(Tree):
    """A weekday, a day of a month, or both ("on Monday, the third of May")."""

    weekday: Day | None
    day: int | None = None
    month: Day | None = None


@dataclass(frozen=True, slots=True)
class Predicate(Tree):
    """The adjective in "is difficult" and in "makes the work more difficult"."""

    adjective: Adjective
    comparative: bool = False


@dataclass(frozen=True, slots=True)
class Clause(Tree):
    """A verb with its subject, objects and adverbials."""

    verb: Verb
    subject: Nominal
    indirect: Nominal | None = None
    """The object in the dative."""
    direct: Nominal | None = None
    """The object in the accusative."""
    tense: Tense = "present"
    modal: Modal | None = None
    """The modal verb, if `tense` is `modal`."""
    negated: bool = False
    place: Place | None = None
    time: Adverb | Date | None = None
    time_first: bool = False
    predicate: Predicate | None = None
    content: "Clause | None" = None
    """The clause that is reported ("that ...")."""


@dataclass(frozen=True, slots=True)
class Compound(Tree):
    """Two clauses joined by a conjunction, which belongs to the second."""

    main: Clause
    conjunction: Conjunction
    other: Clause
    other_first: bool = False
    """Whether the subordinate clause comes before the main clause."""

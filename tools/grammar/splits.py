"""The corpus of the quickstart: synthetic, controlled English-German sentence pairs from a synchronous grammar.

It is an exercise, made to be learned in minutes, and no sample of how anybody uses either language: few words, few
constructions, one translation of each sentence. In return the German sentence is a function of the English one, so that
exact match is a fair score, and much of it depends on words far away: articles and adjectives on gender and case,
pronouns on the noun that they stand for, the end of the clause on its verb.

A template (in `templates`) draws a tree, and `english` and `german` each put it into words. The name of the template
with two or three words of the tree is the sentence's key, and keys are held out, not sentences: no key of the test set
occurs in training, though each of its words does, and its words may meet in another template.
"""

import hashlib
from functools import cache
from typing import Literal, NamedTuple

import english
import german
from syntax import Clause, Compound, Date, Phrase, Place, Pronoun, Tree
from templates import TEMPLATES, Pick

Split = Literal["train", "validation", "test"]

SIZES: dict[Split, int] = {"train": 40_000, "validation": 1_000, "test": 2_000}
"""Pairs of each split, all distinct."""
HELD_OUT: dict[Split, float] = {"test": 0.05, "validation": 0.025}
"""Share of all keys that a split has to itself; the rest is for training."""
SEEDS: dict[Split, int] = {"train": 1, "validation": 2, "test": 3}
"""Where the random numbers of each split start."""


class Sentence(NamedTuple):
    """A sentence, its translation, and the phenomena in it."""

    source: str
    """English."""
    target: str
    """German."""
    tags: tuple[str, ...]
    """In alphabetical order."""


def generate(split: Split) -> list[Sentence]:
    """The pairs of a split, none twice: the same in the same order everywhere.

    Args:
        split: Which of the three.
    """
    return [sentence for sentence, _ in generate_trees(split)]


def generate_trees(split: Split) -> list[tuple[Sentence, Clause | Compound]]:
    """The same with the tree of each, which says what its words mean."""
    pick = Pick(SEEDS[split])
    sentences: dict[str, tuple[Sentence, Clause | Compound]] = {}
    while len(sentences) < SIZES[split]:
        template = pick(TEMPLATES)
        key, tree = template(pick)
        if split_of((template.__name__, *key)) == split:
            source = spell(english.sentence(tree))
            if source not in sentences:
                sentences[source] = Sentence(source, spell(german.sentence(tree)), phenomena(tree)), tree
    return list(sentences.values())


@cache
def split_of(key: tuple[str, ...]) -> Split:
    """The split that a key belongs to, by its SHA-256."""
    share = int.from_bytes(hashlib.sha256("\n".join(key).encode()).digest()[:4], "big") / 2**32
    if share < HELD_OUT["test"]:
        return "test"
    return "validation" if share < HELD_OUT["test"] + HELD_OUT["validation"] else "train"


def phenomena(tree: Tree) -> tuple[str, ...]:
    """What can be learned from a tree, in alphabetical order."""
    tags = set()
    for node in tree.nodes():
        match node:
            case Phrase():
                tags |= _of_phrase(node)
            case Clause():
                tags |= _of_clause(node)
            case Pronoun():
                # English says it and its whatever the gender: only the antecedent knows.
                if node.form != "plural" and not node.antecedent.noun.is_person:
                    tags.add("antecedent-gender")
            case Place() if node.preposition.case == "dative":
                tags.add("dative")
            case Date():
                tags.add("date")
            case Compound() if node.conjunction.kind == "subordinating":
                tags |= {"verb-last", "inversion"} if node.other_first else {"verb-last"}
    return tuple(sorted(tags))


def _of_phrase(phrase: Phrase) -> set[str]:
    found = {
        "agreement": phrase.adjective,
        "number": phrase.number,
        "genitive": phrase.owner,
        "relative-clause": phrase.relative,
        "verb-last": phrase.relative,
        "negation": phrase.determiner == "no",
        "possessive-pronoun": isinstance(phrase.determiner, Pronoun),
    }
    return {tag for tag, here in found.items() if here}


def _of_clause(clause: Clause) -> set[str]:
    found = {
        "perfect": clause.tense == "past",
        "future": clause.tense == "future",
        "modal": clause.modal,
        "separable": clause.verb.prefix,
        "negation": clause.negated,
        "dative": clause.indirect,
        "pronoun": any(isinstance(one, Pronoun) for one in (clause.subject, clause.indirect, clause.direct)),
        "inversion": clause.time_first,
        "verb-last": clause.content,
        "distant-complement": clause.verb.frame == "change",
    }
    return {tag for tag, here in found.items() if here}


def spell(words: list[str]) -> str:
    """A sentence of its words and commas: where two commas meet, or a comma and the full stop, one is written."""
    text = f"{' '.join(words)}.".replace(" ,", ",").replace(",,", ",").replace(",.", ".")
    return text[0].upper() + text[1:]

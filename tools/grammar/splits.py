"""The splits of the quickstart corpus of English-German sentence pairs.

The pairs are synthetic and come from a synchronous grammar. The corpus is an exercise that can be learned in minutes,
not a sample of real language. It has few words, few constructions, and one translation of each sentence. The German
sentence is a function of the English one, so that exact match is a fair score. Much of it depends on distant words:
articles and adjectives on gender and case, pronouns on their antecedent, and the end of a clause on its verb.

A template (in `templates`) draws a tree, and `english` and `german` each turn it into a sentence. The key of a sentence
is the name of its template with two or three words of the tree. Keys are held out instead of sentences. No key of the
test set occurs in training, but each of its words does, and the same words may occur together in another template.
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
"""Number of pairs in each split. All pairs are distinct."""
HELD_OUT: dict[Split, float] = {"test": 0.05, "validation": 0.025}
"""Share of all keys that occurs in this split only. All other keys are for training."""
SEEDS: dict[Split, int] = {"train": 1, "validation": 2, "test": 3}
"""Seed of each split's random numbers."""


class Sentence(NamedTuple):
    """A sentence, its translation, and the phenomena in it."""

    source: str
    """The English sentence."""
    target: str
    """The German sentence."""
    tags: tuple[str, ...]
    """The phenomena, in alphabetical order."""


def generate(split: Split) -> list[Sentence]:
    """Generates the distinct pairs of a split, always the same in the same order."""
    return [sentence for sentence, _ in generate_trees(split)]


def generate_trees(split: Split) -> list[tuple[Sentence, Clause | Compound]]:
    """Generates the pairs of a split like `generate`, each with its tree."""
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
    """The split that a key belongs to, according to its SHA-256."""
    share = int.from_bytes(hashlib.sha256("\n".join(key).encode()).digest()[:4], "big") / 2**32
    if share < HELD_OUT["test"]:
        return "test"
    return "validation" if share < HELD_OUT["test"] + HELD_OUT["validation"] else "train"


def phenomena(tree: Tree) -> tuple[str, ...]:
    """The grammatical phenomena in a tree, in alphabetical order."""
    tags = set()
    for node in tree.nodes():
        match node:
            case Phrase():
                tags |= _of_phrase(node)
            case Clause():
                tags |= _of_clause(node)
            case Pronoun():
                # English has "it" and "its" for every gender, so the German pronoun depends on the antecedent.
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
    """Joins words and commas to a sentence.

    Two adjacent commas become one, and a comma before the full stop is left out.
    """
    text = f"{' '.join(words)}.".replace(" ,", ",").replace(",,", ",").replace(",.", ".")
    return text[0].upper() + text[1:]

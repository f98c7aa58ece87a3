"""The splits of the quickstart's corpus.

It consists of synthetic English-German pairs from a synchronous grammar. The corpus is an exercise that a model learns
in minutes, and not a sample of either language. It has few words, few constructions, and one translation of each
sentence. Because the German sentence is a function of the English one, exact match is a fair score. Much of the German
sentence depends on distant words: articles and adjectives on gender and case, pronouns on their antecedent, and the end
of a clause on its verb.

A template (in `templates`) draws a tree, which `english` and `german` translate into words. The key of a sentence is
the name of its template with two or three words of the tree. Keys are held out, not sentences. No key of the test set
occurs in training, although each of its words does, and the words may occur together in another template.
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
"""Share of all keys that are reserved for a split. The others are for training."""
SEEDS: dict[Split, int] = {"train": 1, "validation": 2, "test": 3}
"""Seed of the random numbers of each split."""


class Sentence(NamedTuple):
    """A sentence pair with its tags."""

    source: str
    """English."""
    target: str
    """German."""
    tags: tuple[str, ...]
    """The phenomena in the sentence, in alphabetical order."""


def generate(split: Split) -> list[Sentence]:
    """Generates the distinct pairs of a split, identically on every machine."""
    return [sentence for sentence, _ in generate_trees(split)]


def generate_trees(split: Split) -> list[tuple[Sentence, Clause | Compound]]:
    """Generates the distinct pairs of a split, each with its tree."""
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
    """Returns the split of a key, which depends on the SHA-256 of the key alone."""
    share = int.from_bytes(hashlib.sha256("\n".join(key).encode()).digest()[:4], "big") / 2**32
    if share < HELD_OUT["test"]:
        return "test"
    return "validation" if share < HELD_OUT["test"] + HELD_OUT["validation"] else "train"


def phenomena(tree: Tree) -> tuple[str, ...]:
    """Returns the tags of a tree, in alphabetical order."""
    tags = set()
    for node in tree.nodes():
        match node:
            case Phrase():
                tags |= _of_phrase(node)
            case Clause():
                tags |= _of_clause(node)
            case Pronoun():
                # "it" and "its" are the same for every gender, so only the antecedent determines the German form.
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

    Doubled commas, and a comma before the full stop, are merged.
    """
    text = f"{' '.join(words)}.".replace(" ,", ",").replace(",,", ",").replace(",.", ".")
    return text[0].upper() + text[1:]

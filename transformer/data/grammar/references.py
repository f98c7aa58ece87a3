"""What "it" and "its" stand for in the sentences of the embedded corpus: the trees know."""

import re
from typing import Literal, NamedTuple

from transformer.data.grammar.splits import Sentence, Split, generate_trees
from transformer.data.grammar.syntax import Phrase, Pronoun

Word = Literal["it", "its"]


class Reference(NamedTuple):
    """A pronoun of a sentence. Its words are in lower case; pronoun and antecedent stand there once each."""

    sentence: Sentence
    pronoun: Word
    antecedent: str
    """The noun that the pronoun stands for."""
    nouns: tuple[str, ...]
    """All nouns of the sentence, the antecedent among them, in alphabetical order."""
    owned: str | None
    """Of "its": the noun behind it, whose owner the antecedent is."""


def references(split: Split) -> list[Reference]:
    """Every "it" and "its" of a split with its antecedent, in the order of the sentences.

    Args:
        split: Which of the three.
    """
    found = []
    for sentence, tree in generate_trees(split):
        nouns, antecedents, owned = set[str](), set[str](), None
        for node in tree.nodes():
            match node:
                case Phrase():
                    noun = (node.noun.english_plural if node.plural else node.noun.english).lower()
                    nouns.add(noun)
                    if _is_it(node.determiner):
                        owned = noun
                case Pronoun() if _is_it(node):
                    antecedents.add(node.noun.english)
        words = re.findall(r"[\w-]+", sentence.source.lower())
        for pronoun in ("it", "its"):
            if words.count(pronoun) == 1 and len(antecedents) == 1:
                (antecedent,) = antecedents
                of_its = owned if pronoun == "its" else None
                found.append(Reference(sentence, pronoun, antecedent, tuple(sorted(nouns)), of_its))
    return found


def _is_it(pronoun: object) -> bool:
    """Whether English calls it "it"."""
    return isinstance(pronoun, Pronoun) and pronoun.form != "plural" and not pronoun.noun.is_person

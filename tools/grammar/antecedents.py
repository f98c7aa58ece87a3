"""What "it" and "its" stand for in a sentence of the quickstart's corpus: its tree knows."""

import re

from syntax import Phrase, Pronoun, Tree
from transformer.data.pairs import Antecedent


def antecedents(source: str, tree: Tree) -> tuple[Antecedent, ...]:
    """The antecedent of "it" or "its" in an English sentence, if it has one of them.

    Args:
        source: The sentence.
        tree: What it says.
    """
    nouns, found, owned = set[str](), set[str](), None
    for node in tree.nodes():
        match node:
            case Phrase():
                noun = (node.noun.english_plural if node.plural else node.noun.english).lower()
                nouns.add(noun)
                if _is_it(node.determiner):
                    owned = noun
            case Pronoun() if _is_it(node):
                found.add(node.noun.english)
    if len(found) != 1:
        return ()
    (antecedent,), words = found, re.findall(r"[\w-]+", source.lower())
    return tuple(
        Antecedent(pronoun, antecedent, tuple(sorted(nouns)), owned if pronoun == "its" else None)
        for pronoun in ("it", "its")
        if words.count(pronoun) == 1
    )


def _is_it(pronoun: object) -> bool:
    """Whether English calls it "it"."""
    return isinstance(pronoun, Pronoun) and pronoun.form != "plural" and not pronoun.noun.is_person

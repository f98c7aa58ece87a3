"""The antecedents of "it" and "its" in the corpus, read from the trees."""

import re

from syntax import Phrase, Pronoun, Tree
from transformer.data.pairs import Antecedent


def antecedents(source: str, tree: Tree) -> tuple[Antecedent, ...]:
    """Finds the antecedent of "it" and "its" in an English sentence.

    Args:
        source: The sentence.
        tree: Its abstract syntax.

    Returns: One antecedent for each of the two pronouns that occurs exactly once; none if they could stand for several
        nouns.
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
    """Whether this is a pronoun that English translates as "it" or "its"."""
    return isinstance(pronoun, Pronoun) and pronoun.form != "plural" and not pronoun.noun.is_person

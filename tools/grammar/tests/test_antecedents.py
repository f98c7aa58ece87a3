import re

import pytest

from antecedents import antecedents
from splits import generate_trees


@pytest.fixture(scope="module")
def found():
    return [(sentence, antecedents(sentence.source, tree)) for sentence, tree in generate_trees("test")]


def test_every_it_and_its_has_an_antecedent(found):
    known = [(sentence, antecedent) for sentence, of_sentence in found for antecedent in of_sentence]
    assert len(known) > 300
    assert {antecedent.pronoun for _, antecedent in known} == {"it", "its"}
    with_pronoun = [one for one, _ in found if re.search(r"\b(it|its)\b", one.source, re.IGNORECASE)]
    assert [sentence for sentence, _ in known] == with_pronoun
    for sentence, antecedent in known:
        words = re.findall(r"[\w-]+", sentence.source.lower())
        assert words.count(antecedent.pronoun) == words.count(antecedent.noun) == 1
        assert antecedent.noun in antecedent.nouns
        assert {*antecedent.nouns} <= {*words}
        assert "antecedent-gender" in sentence.tags
        if antecedent.pronoun == "it":
            assert antecedent.owned is None
        else:
            assert antecedent.owned in antecedent.nouns
            after = words[words.index("its") + 1 :]
            assert antecedent.owned in after[:2]  # perhaps an adjective between


def test_by_hand(found):
    by_source = {sentence.source: of_sentence for sentence, of_sentence in found}
    source = "The farmer praises the decision, but its bad effects must be clear."
    assert by_source[source] == (("its", "decision", ("decision", "effects", "farmer"), "effects"),)

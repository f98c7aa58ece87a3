import re

import pytest

from transformer.data.grammar import splits
from transformer.data.grammar.references import references


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(splits.SIZES, "test", 150)  # the tests' type checks make the grammar slow
        return references("test"), splits.generate("test")


def test_every_it_and_its_has_an_antecedent(found):
    answers, sentences = found
    assert len(answers) > 20
    assert {answer.pronoun for answer in answers} == {"it", "its"}
    with_pronoun = [one for one in sentences if re.search(r"\b(it|its)\b", one.source, re.IGNORECASE)]
    assert [answer.sentence for answer in answers] == with_pronoun
    for answer in answers:
        words = re.findall(r"[\w-]+", answer.sentence.source.lower())
        assert words.count(answer.pronoun) == words.count(answer.antecedent) == 1
        assert answer.antecedent in answer.nouns
        assert {*answer.nouns} <= {*words}
        assert "antecedent-gender" in answer.sentence.tags
        if answer.pronoun == "it":
            assert answer.owned is None
        else:
            assert answer.owned in answer.nouns
            behind = words[words.index("its") + 1 :]
            assert answer.owned in behind[:2]  # perhaps an adjective between


def test_by_hand(found):
    answers = {answer.sentence.source: answer[1:] for answer in found[0]}
    source = "The farmer praises the decision, but its bad effects must be clear."
    assert answers[source] == ("its", "decision", ("decision", "effects", "farmer"), "effects")

import jax
import numpy as np
import pytest

from transformer.analysis.pronouns import QUESTIONS, answers, chance, probe, to_text, untrained
from transformer.data.grammar import Sentence
from transformer.data.grammar.references import Reference
from transformer.errors import InputError
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state

pytestmark = pytest.mark.usefixtures("quick_compilation")

LAW = Sentence("The law is good, but its use is bad", "das Gesetz ist gut", ())
DOG = Sentence("the dog is old, it sees the law", "das Gesetz ist gut", ())
REFERENCES = [
    Reference(LAW, "its", "law", ("law", "use"), "use"),
    Reference(DOG, "it", "dog", ("dog", "law"), None),
]


def test_the_noun_with_the_most_weight_is_the_answer(run):
    cut = run.tokenizer.cut(LAW.source)
    words = [cut.words[place] for place in cut.word_of]
    size = len(words) + 3  # with the end token, and padding
    weights = np.zeros((2, 1, size, size), np.float32)
    its, law, use = (np.flatnonzero([word == wanted for word in words]) for wanted in ("its", "law", "use"))
    weights[0, 0, its[0], law[-1]] = 0.6  # of the pronoun's tokens, the mean counts
    weights[0, 0, its, use[0]] = 0.1
    weights[1, 0, its, law[0]], weights[1, 0, its, use[0]] = 0.3, 0.4
    weights[1, 0, :, -1] = 0.9  # neither padding nor other words
    assert answers(weights, run, REFERENCES[0]).tolist() == [[0], [1]]


def test_probe_counts_right_answers(run):
    accuracy = probe(run, [*REFERENCES, *REFERENCES])
    assert set(accuracy) == set(QUESTIONS)
    assert {values.shape for values in accuracy.values()} == {(2, 4)}
    assert {*np.unique(np.stack([*accuracy.values()]))} <= {0.0, 1.0}
    np.testing.assert_array_equal(accuracy["its"], 1 - accuracy["its owned"])  # there are but these two nouns
    assert chance(REFERENCES) == {"it": 0.5, "its": 0.5, "its owned": 0.5}
    lines = to_text(accuracy, accuracy, chance(REFERENCES)).splitlines()
    assert len(lines) == 7 + 8 + 1
    assert lines[-1].split() == ["a", "guess", *["50.0"] * 6]


def test_untrained_is_what_training_begins_with(run):
    begins = create_state(run.model, make_optimizer(run.config.optimizer, run.model.config.d_model, 1), seed=0).params
    jax.tree.map(np.testing.assert_array_equal, untrained(run).params["params"], begins)


def test_no_pronouns(run):
    with pytest.raises(InputError, match="There are no sentence pairs"):
        probe(run, [])

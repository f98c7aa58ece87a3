import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from transformer.analysis.pronouns import answers, chance, probe, to_text, untrained, with_antecedents
from transformer.cli import heads
from transformer.data import corpus
from transformer.data.pairs import Antecedent, Pairs
from transformer.errors import InputError
from transformer.kept_pairs import KEPT, keep_pairs
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state

pytestmark = pytest.mark.usefixtures("quick_compilation")

LAW, DOG = "The law is good, but its use is bad", "the dog is old, it sees the law"
ITS, IT = Antecedent("its", "law", ("law", "use"), "use"), Antecedent("it", "dog", ("dog", "law"))
PAIRS = Pairs([LAW, "the old dog", DOG], ["das Gesetz ist gut"] * 3, None, [(ITS,), (), (IT,)])


def test_the_noun_with_the_most_weight_is_the_answer(run):
    tokens = run.tokenizer.tokenize(LAW)
    words = [tokens.words[index] for index in tokens.word_of]
    size = len(words) + 3  # plus the end token and padding
    weights = np.zeros((2, 1, size, size), np.float32)
    its, law, use = (np.flatnonzero([word == wanted for word in words]) for wanted in ("its", "law", "use"))
    weights[0, 0, its[0], law[-1]] = 0.6  # averaged over the pronoun's tokens
    weights[0, 0, its, use[0]] = 0.1
    weights[1, 0, its, law[0]], weights[1, 0, its, use[0]] = 0.3, 0.4
    weights[1, 0, :, -1] = 0.9  # weight on other tokens and padding does not count
    assert answers(weights, run, LAW, ITS).tolist() == [[0], [1]]


def test_probe_counts_right_answers(run):
    known = with_antecedents(PAIRS)
    assert known.sources == [LAW, DOG]
    accuracy = probe(run, known.select([0, 1, 0, 1]))
    assert list(accuracy) == ["it", "its", "its owned"]
    assert {values.shape for values in accuracy.values()} == {(2, 4)}
    assert {*np.unique(np.stack([*accuracy.values()]))} <= {0.0, 1.0}
    np.testing.assert_array_equal(accuracy["its"], 1 - accuracy["its owned"])  # the sentence has only these two nouns
    assert chance(known) == {"it": 0.5, "its": 0.5, "its owned": 0.5}
    lines = to_text(accuracy, accuracy, chance(known)).splitlines()
    assert len(lines) == 7 + 8 + 1
    assert lines[-1].split() == ["guessing", *["50.0"] * 6]


def test_several_pronouns_of_a_sentence_are_asked_one_by_one(run):
    both = Pairs([f"{DOG}, its use"], [""], None, [(IT, ITS)])
    one_by_one = [probe(run, both._replace(antecedents=[(antecedent,)])) for antecedent in (IT, ITS)]
    assert {question: values.tolist() for question, values in probe(run, both).items()} == {
        question: values.tolist() for one in one_by_one for question, values in one.items()
    }
    (accuracy, _), guess = one_by_one, chance(both)
    lines = to_text(accuracy, accuracy, guess).splitlines()
    assert lines[1].split() == ["it", "from", '"it"', "to", "the", "noun", "that", "it", "refers", "to"]
    assert lines[4].split() == ["layer", "head", "it", "it"]


def test_untrained_is_what_training_begins_with(run):
    begins = create_state(run.model, make_optimizer(run.config.optimizer, run.model.config.d_model, 1), seed=0).params
    jax.tree.map(np.testing.assert_array_equal, untrained(run).params, begins)


def test_no_pronouns(run):
    with pytest.raises(InputError, match="There are no sentence pairs"):
        probe(run, with_antecedents(Pairs(["a"], ["A"])))
    with pytest.raises(InputError, match="The pronoun it is not in its sentence: the old dog"):
        probe(run, Pairs(["the old dog"], ["der alte Hund"], None, [(IT,)]))


@pytest.mark.parametrize("made", ["now", "before antecedents were kept"])
def test_heads_asks_about_the_pronouns_of_the_test_set(run, tmp_path, monkeypatch, capsys, made):
    origin = {"test": ("test.jsonl",)} if made == "now" else {"corpus": "package:quickstart.jsonl.xz"}
    data = replace(run.config.data, **origin)
    own = replace(run, config=replace(run.config, data=data))
    kept = PAIRS if made == "now" else PAIRS._replace(antecedents=None)
    keep_pairs(tmp_path / KEPT["test"], kept, data)
    monkeypatch.setattr(heads, "load_translator", lambda options: own)
    monkeypatch.setattr(corpus, "read_pairs", lambda config, split: (PAIRS, None))
    heads.main([str(tmp_path), "--sentences", "1"])
    text = capsys.readouterr().out
    assert text.splitlines()[-1].split() == ["guessing", *["50.0"] * 6]
    heads.main([str(tmp_path), "--sentences", "1", "--json"])
    found = json.loads(capsys.readouterr().out)["pronouns"]
    assert {name: list(of_model) for name, of_model in found.items()} == {
        "trained": ["it", "its", "its owned"],
        "untrained": ["it", "its", "its owned"],
    }

import dataclasses
import json

import pytest

from transformer.config import SearchConfig
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.inference.evaluate import bleu
from transformer.inference.translator import Translator
from transformer.inference.tune import Candidates, Form, candidates, rank, stored, trials

pytestmark = pytest.mark.usefixtures("quick_compilation")

SENTENCES = ["seven", "the men", "then see", "men", "the sea", "seas", "then", "see men"]
PENALTIES: tuple[tuple[Form, float], ...] = (("wu", 2.0), ("power", 1.0))


@pytest.fixture(scope="module")
def translator(random_translator) -> Translator:
    """The random model, inclined to end: its translations of a sentence are of several lengths."""
    params, end_id = random_translator.params["params"], random_translator.tokenizer.end_id
    bias = params["logits_bias"].at[end_id].add(8.0)
    return dataclasses.replace(random_translator, params={"params": params | {"logits_bias": bias}})


@pytest.fixture(scope="module")
def search(translator) -> SearchConfig:
    return dataclasses.replace(translator.config.search, beam_size=3, num_best=100)


@pytest.fixture(scope="module")
def found(translator, search) -> list[Candidates]:
    return candidates(translator, SENTENCES, search)


@pytest.fixture(scope="module")
def direct(translator, search) -> dict[tuple[str, float], list[str]]:
    """What a search with each penalty finds."""
    return {
        (form, alpha): translator.translate(
            SENTENCES, dataclasses.replace(search, length_penalty_form=form, length_penalty=alpha, num_best=1)
        )
        for form, alpha in PENALTIES
    }


def test_all_candidates_ranked_are_what_each_search_finds(found, direct):
    assert all(own.complete for own in found)
    assert any(len(own.translations) > 3 for own in found)  # a beam of three comes across more
    for form, alpha in PENALTIES:
        ranked = [rank(own, form, alpha) for own in found]
        assert [best.text for best, _ in ranked] == direct[form, alpha]
        assert all(proven for _, proven in ranked)
    first = [rank(own, "wu", 0.0)[0] for own in found]
    assert first == [own.translations[0] for own in found]
    assert any(text != best.text for text, best in zip(direct["wu", 2.0], first, strict=True))


def test_of_few_candidates_what_is_proven_is_what_each_search_finds(found, direct):
    proofs = []
    for number in (1, 2, 4, 8):
        few = [Candidates(own.translations[:number], own.longest, False) for own in found]
        for form, alpha in PENALTIES:
            for own, text in zip(few, direct[form, alpha], strict=True):
                best, proven = rank(own, form, alpha)
                assert best.text == text or not proven
                proofs.append(proven)
    assert 0 < sum(proofs) < len(proofs)


def test_trials_have_the_bleu_of_each_penalty(found, direct):
    references = ["the seven seas", *direct["wu", 2.0][1:]]
    results = {(trial.form, trial.alpha): trial for trial in trials(found, references, 3, (0.0, 1.0, 2.0))}
    assert list(results) == [("wu", 0.0), ("wu", 1.0), ("wu", 2.0), ("power", 1.0), ("power", 2.0)]
    for penalty in PENALTIES:
        assert results[penalty].bleu == bleu(direct[penalty], references)
    assert {trial.proven for trial in results.values()} == {1.0}
    assert [trial.alpha for trial in trials(found, references, 1, (0.5, 1.0))] == [0.0]  # greedy


def test_candidates_are_kept_and_used_again(translator, search, found, tmp_path):
    pairs = Pairs(SENTENCES, SENTENCES)
    assert stored(translator, pairs, search, tmp_path) == (found, False)
    assert stored(translator, pairs, search, tmp_path) == (found, True)
    other_penalty = dataclasses.replace(search, length_penalty=0.1, length_penalty_form="power")
    assert stored(translator, pairs, other_penalty, tmp_path) == (found, True)
    file = tmp_path / "beam-3.jsonl"
    about, *rest = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(about) | {"parameters": "others"}), *rest]) + "\n")
    assert stored(translator, pairs, search, tmp_path) == (found, False)


def test_samples_have_no_length_penalty(translator):
    with pytest.raises(InputError, match=r"search\.sample draws"):
        candidates(translator, SENTENCES, SearchConfig(sample=True))

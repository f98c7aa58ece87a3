import dataclasses

import pytest

from transformer.config import SearchConfig
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.inference.evaluate import bleu
from transformer.inference.tune import trials

pytestmark = pytest.mark.usefixtures("quick_compilation")

SENTENCES = ["seven", "the men", "then see", "men", "the sea", "seas", "then", "see men"]


def test_one_search_re_ranked_finds_what_each_search_finds(random_translator, monkeypatch):
    params, end_id = random_translator.params["params"], random_translator.tokenizer.end_id
    bias = params["logits_bias"].at[end_id].add(8.0)  # so that the translations of a sentence differ in length
    translator = dataclasses.replace(random_translator, params={"params": params | {"logits_bias": bias}})
    search, ranked = dataclasses.replace(translator.config.search, num_best=100), []
    references = ["the seven seas", *SENTENCES[1:]]
    monkeypatch.setattr("transformer.inference.tune.bleu", lambda *texts: ranked.append(texts[0]) or bleu(*texts))
    found = list(trials(translator, Pairs(SENTENCES, references), search, (1, 3), (0.0, 2.0)))
    assert [trial[:3] for trial in found] == [
        (1, 0.0, "wu"),  # greedy
        *((3, alpha, "wu") for alpha in (0.0, 2.0)),
        (3, 2.0, "power"),
    ]
    for trial, texts in zip(found, ranked, strict=True):
        own = dataclasses.replace(search, num_best=1, **{name: getattr(trial, name) for name in trial._fields[:3]})
        assert texts == translator.translate(SENTENCES, own)
        assert trial.bleu == bleu(texts, references)
    assert len({tuple(texts) for texts in ranked}) > 2


def test_samples_have_no_length_penalty(random_translator):
    with pytest.raises(InputError, match="Sampling has no length penalty to tune"):
        list(trials(random_translator, Pairs(["men"], ["men"]), SearchConfig(sample=True), (4,), (0.0,)))

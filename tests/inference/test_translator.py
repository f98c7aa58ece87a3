import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from transformer.checkpoint import Checkpoints
from transformer.config import TokenizerConfig
from transformer.data.corpus import Pairs
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.errors import InputError
from transformer.inference.translator import ensemble, load
from transformer.model import Transformer
from transformer.run_dir import open_run

pytestmark = pytest.mark.usefixtures("quick_compilation")


class State(NamedTuple):
    params: Any
    step: Any


def test_score_is_that_of_the_translations(translator):
    sources = ["a man runs", "two dogs under the tree"]
    own = translator.translate(sources)
    scores = translator.score([(sources[0], own[0]), (sources[1], "nothing like it")])
    assert (scores.exact_match.score, scores.exact_match.sentences) == (50.0, 2)
    assert scores.loss == pytest.approx(translator.loss(sources, [own[0], "nothing like it"]))
    tagged, hypotheses = translator.evaluate(Pairs(sources, own, [("x",), ("x", "y")]))
    assert hypotheses == own
    assert {tag: match.score for tag, match in tagged.exact_match_by_tag.items()} == {"x": 100.0, "y": 100.0}


def test_a_line_in_chunks_has_scores_but_no_loss(translator):
    pairs = Pairs(["a man runs. " * 30, "two dogs"], ["the bird", "the tree"])
    assert translator.fit(pairs.sources, pairs.targets) == [False, True]
    scores, hypotheses = translator.evaluate(pairs, dataclasses.replace(translator.config.search, long_input="split"))
    assert len(hypotheses) == 2
    assert scores.loss is None
    assert "loss" not in scores.to_text()
    with pytest.raises(InputError, match="positions"):
        translator.evaluate(pairs, dataclasses.replace(translator.config.search, long_input="refuse"))


def test_load_brings_back_what_was_saved(translator, tokenizer, tmp_path, draw_variables):
    run = open_run(tmp_path / "run", translator.config)
    tokenizer.save(run / "tokenizer.json")
    with Checkpoints(run, keep_last=2, fingerprint=tokenizer.fingerprint) as checkpoints:
        for step, variables in ((1, translator.params), (2, draw_variables(translator.config.model, seed=1))):
            checkpoints.save(step, State(variables, np.array(step)), {"validation_loss": float(step)})
    sentences = ["a man runs", "two dogs under the tree"]
    loaded = load(run, "best")
    assert loaded.translate(sentences) == translator.translate(sentences)
    assert loaded.config == translator.config
    assert load(run, "last").translate(sentences) != translator.translate(sentences)
    assert load(run, dtype="bfloat16").model.dtype == jnp.bfloat16
    average = load(run, "last", average=2).params["params"]["embedding"]
    both = [load(run, step).params["params"]["embedding"] for step in (1, 2)]
    np.testing.assert_allclose(average, (both[0] + both[1]) / 2, rtol=1e-6)


def test_an_ensemble_has_the_positions_of_its_shortest_member(translator, draw_variables):
    config = dataclasses.replace(translator.config.model, max_positions=20, positions="learned")
    shorter = dataclasses.replace(translator, model=Transformer(config), params=draw_variables(config))
    both, source = ensemble([translator, shorter]), ["a man runs under the old tree"]
    assert np.isfinite(both.log_probabilities(source, source)[0]).all()
    with pytest.raises(InputError, match="positions for 20"):
        both.log_probabilities(["man " * 30], source)


def test_an_ensemble_searches_the_mean_of_probabilities(translator, tokenizer, draw_variables):
    second = dataclasses.replace(translator, params=draw_variables(translator.config.model, seed=1))
    sources = ["a man runs", "two dogs under the tree"]
    assert ensemble([translator, translator]).translate(sources) == translator.translate(sources)
    both = ensemble([translator, second])
    log_probs = [one.log_probabilities(sources, sources) for one in (translator, second, both)]
    for first, other, mean in zip(*log_probs, strict=True):
        np.testing.assert_allclose(np.exp(mean), (np.exp(first) + np.exp(other)) / 2, rtol=1e-4)
    found = list(both.n_best(sources))
    own = both.log_probabilities(sources, [best[0].text for best in found])
    penalties = [((5 + best[0].tokens) / 6) ** 0.6 for best in found]
    for best, log_prob, penalty in zip(found, own, penalties, strict=True):
        if len(log_prob) == best[0].tokens:
            assert best[0].score == pytest.approx(log_prob.sum() / penalty, rel=1e-4)
    assert both.loss(sources, sources) == pytest.approx(-np.concatenate(log_probs[2]).mean())
    strange = BpeTokenizer.train(["other words here"] * 9 + ["x y z"], 262, TokenizerConfig())
    with pytest.raises(InputError, match="different tokenizers: the tokenizer of model 2"):
        ensemble([translator, dataclasses.replace(second, tokenizer=strange)])

import dataclasses
import math
import random
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer import parameters
from transformer.checkpoint import Checkpoints
from transformer.config import Config, ModelConfig, SearchConfig, TokenizerConfig, TrainingConfig
from transformer.data.corpus import Pairs
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.inference.decoding import decode
from transformer.inference.evaluate import corpus_loss
from transformer.inference.translator import (
    Translation,
    Translator,
    _join,
    ensemble,
    load,
    search_ids,
    translate,
)
from transformer.model import Side, Transformer
from transformer.run_dir import open_run

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = ModelConfig(
    vocabulary_size=300,
    d_model=32,
    num_heads=4,
    d_ff=64,
    num_encoder_layers=1,
    num_decoder_layers=1,
    max_positions=80,
    dtype="float32",
)
SEARCH = SearchConfig(extra_length=10, batch_tokens=256)
WORDS = [
    "a",
    "the",
    "two",
    "old",
    "small",
    "red",
    "man",
    "dogs",
    "bird",
    "house",
    "tree",
    "runs",
    "sees",
    "under",
    "over",
]


def sentence(generator, words):
    return " ".join(generator.choice(WORDS) for _ in range(words))


class State(NamedTuple):
    params: Any
    batch_stats: Any
    step: Any


@pytest.fixture(scope="module")
def tokenizer():
    generator = random.Random(0)
    return Tokenizer.train([sentence(generator, 8) for _ in range(200)], 300, TokenizerConfig())


def variables_of(config, seed=0):
    """Random parameters, larger than initialized, so that translations are neither all alike nor all of full length."""
    variables = parameters.draw(Transformer(config), seed)
    doubled = jax.tree.map(
        lambda leaf, is_matrix: leaf * 2 if is_matrix else leaf,
        variables["params"],
        parameters.are_matrices(variables["params"]),
    )
    return jax.device_put({**variables, "params": doubled})


@pytest.fixture(scope="module")
def translator(tokenizer):
    config = Config(model=MODEL, search=SEARCH, data=dataclasses.replace(Config().data, max_length=MODEL.max_positions))
    return Translator(config, Transformer(MODEL), variables_of(MODEL), tokenizer)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_position": "pre", "positions": "halved", "attention_bias": True},
        {"norm": "batch", "positions": "learned", "shared_embeddings": "none", "final_logits_bias": True},
        {
            "norm": "rms",
            "positions": "rotary",
            "shared_embeddings": "target",
            "scale_embeddings": False,
            "activation": "swish",
        },
    ],
)
def test_decoding_step_by_step_equals_decoding_at_once(changes):
    config, generator = dataclasses.replace(MODEL, **changes), np.random.default_rng(0)
    model, variables = Transformer(config), variables_of(config)
    source, target = jnp.array(generator.integers(3, 300, (3, 9))), jnp.array(generator.integers(3, 300, (3, 2, 7)))
    source_mask = jnp.arange(9) < jnp.array([9, 4, 6])[:, None]

    @jax.jit
    def at_once():
        whole = [model.apply(variables, source, source_mask, target[:, k])[0] for k in range(2)]
        memory, _ = model.apply(variables, Side(source, source_mask), method="encode")
        return jnp.stack(whole, axis=1), model.apply(variables, memory, method="start_decoding")

    @jax.jit
    def step(cache, token, position):
        origins = jnp.broadcast_to(jnp.arange(2)[:, None], (3, 2, 10))
        return model.apply(
            variables, token, position, origins, cache, keys_and_values, source_mask, method="decode_step"
        )

    whole, (cache, keys_and_values) = at_once()
    cache = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, 0), (0, 20), (0, 0))), cache)
    for position in range(7):
        logits, cache = step(cache, target[:, :, position], position)
        expected = whole[:, :, position]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_translation_does_not_depend_on_its_batch_or_place(translator, beam_size):
    generator = random.Random(1)
    sentences = [sentence(generator, generator.randint(1, 10)) for _ in range(30)]
    search = dataclasses.replace(SEARCH, beam_size=beam_size)
    together = translator.translate(sentences, search)
    assert len(set(together)) > 15
    assert len({len(text) for text in together}) > 10
    assert translator.translate(sentences[::-1], search) == together[::-1]
    for number in (0, 7, 29):
        assert translator.translate([sentences[number]], search) == [together[number]]
    assert translator.translate(sentences, dataclasses.replace(search, batch_tokens=1)) == together


def test_one_line_out_for_each_line_in(translator):
    sentences = ["", "a man", "   ", "the old bird sees", "", "two dogs"]
    found = translator.translate(sentences)
    assert len(found) == 6
    assert [found[0], found[2], found[4]] == ["", "", ""]
    assert found[1]
    assert found[1] == translator.translate(["a man"])[0]
    assert not any("\n" in text or "\r" in text for text in found)
    assert translator.translate([]) == []
    assert translator.translate(["", ""]) == ["", ""]


def test_a_sentence_beyond_the_positions_is_named(translator):
    with pytest.raises(InputError, match=r"Line 2 has \d+ tokens, but the model has positions for 80"):
        translator.translate(["a man", "man " * 200])


def test_a_translation_never_outgrows_the_positions_or_its_source(translator, tokenizer):
    variables = jax.tree.map(jnp.zeros_like, translator.params)  # all tokens alike: the first, a character, is taken
    sentences = ["a man", " ".join(["a"] * 74)]
    search = dataclasses.replace(SEARCH, beam_size=2, length_penalty=5.0)  # the longer the better
    found = translate(translator.model, variables, tokenizer, sentences, search)
    assert len(found[0]) == len(tokenizer.encode_batch(["a man"])[0]) + SEARCH.extra_length
    assert len(found[1]) == MODEL.max_positions - 1


def test_loss_is_that_of_the_logits(translator, tokenizer):
    sources, targets = ["a man runs", "two dogs"], ["the bird", "a small tree runs"]
    expected = []
    for source, target in zip(tokenizer.encode_batch(sources), tokenizer.encode_batch(targets), strict=True):
        source, target = jnp.array([[*source, 2]]), np.array([*target, 2])
        logits, _ = jax.jit(translator.model.apply)(
            translator.params, source, jnp.ones(source.shape, bool), jnp.array([[1, *target[:-1]]])
        )
        expected.extend(-jax.nn.log_softmax(logits[0])[np.arange(len(target)), target])
    assert translator.loss(sources, targets) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("norm", ["layer", "rms", "batch"])
def test_loss_of_a_corpus_is_the_mean_over_the_tokens_of_its_pairs(translator, norm):
    """Packed rows, in batches of one shape, against each pair by itself."""
    generator, config = random.Random(1), dataclasses.replace(MODEL, norm=norm)
    params = variables_of(config)
    if norm == "batch":  # other running statistics than 0 and 1
        draw = np.random.default_rng(0)
        params["batch_stats"] = jax.tree.map(lambda leaf: leaf + draw.uniform(0, 1, leaf.shape), params["batch_stats"])
    translator = dataclasses.replace(
        translator,
        config=dataclasses.replace(translator.config, training=TrainingConfig(batch_tokens=1)),
        model=Transformer(config),
        params=params,
    )
    sources, targets = ([sentence(generator, generator.randint(1, 9)) for _ in range(40)] for _ in range(2))
    whole, loss = translator.batch(sources, targets), 0.0
    for row, length in enumerate(whole.target_mask.sum(axis=1)):
        logits = translator.apply(params, whole.source[row : row + 1], whole.target_input[row : row + 1])
        log_probs = jax.nn.log_softmax(logits)[0, np.arange(length), whole.target_output[row, :length]]
        loss -= float(log_probs.sum())
    batches = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "transformer.inference.translator.corpus_loss",
            lambda model, params, given: corpus_loss(model, params, batches.extend(given) or batches),
        )
        assert translator.loss(sources, targets) == pytest.approx(loss / whole.target_mask.sum(), rel=1e-5)
    assert len(batches) > 1
    assert len({batch.source.shape + batch.target_input.shape for batch in batches}) == 1
    assert max(batch.source_segments.max() for batch in batches) > 1


def test_a_batch_has_a_pair_in_each_row_in_order(translator, tokenizer):
    generator = random.Random(0)
    sources, targets = ([sentence(generator, generator.randint(1, 6)) for _ in range(35)] for _ in range(2))
    batch = translator.batch(sources, targets)
    assert batch.source_segments is batch.target_segments is None
    assert {array.dtype for array in batch if array is not None} == {np.dtype(np.int32), np.dtype(bool)}
    assert batch.row.tolist() == list(range(35))
    for row, ids in enumerate(tokenizer.encode_batch(sources)):
        assert batch.source[row, batch.source_mask[row]].tolist() == [*ids, 2]
        assert (batch.source[row, len(ids) + 1 :] == 0).all()
    for row, ids in enumerate(tokenizer.encode_batch(targets)):
        assert batch.target_input[row, batch.target_mask[row]].tolist() == [1, *ids]
        assert batch.target_output[row, batch.target_mask[row]].tolist() == [*ids, 2]
    assert batch.source_mask[:, -1].any()
    assert batch.target_mask[:, -1].any()
    with pytest.raises(InputError, match=r"Pair 2 of the given text has \d+ tokens, but .* positions for 80"):
        translator.batch(["a man"] * 2, ["a man", "man " * 200])
    with pytest.raises(InputError, match=r"There are no sentence pairs"):
        translator.batch([], [])


def test_apply_is_the_jitted_model(translator, tokenizer):
    batch = translator.batch(["a man runs", "two dogs under the tree"], ["the bird", "a small tree runs"])
    logits, weights = translator.apply(translator.params, batch.source, batch.target_input, return_weights=True)
    expected, _ = jax.jit(translator.model.apply)(
        translator.params, batch.source, batch.source_mask, batch.target_input, batch.target_mask
    )
    assert logits.shape == (*batch.target_output.shape, 300)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert sorted(weights) == ["cross", "decoder", "encoder"]
    assert {len(of_kind) for of_kind in weights.values()} == {1}
    np.testing.assert_allclose(weights["cross"].sum(-1), 1, rtol=1e-5)
    assert (weights["encoder"][0, 0, :, :, ~batch.source_mask[0]] == 0).all()
    alone = translator.apply(translator.params, batch.source, batch.target_input)
    np.testing.assert_allclose(alone, logits, rtol=0, atol=1e-5)

    def loss(params):
        log_probs = jax.nn.log_softmax(translator.apply(params, batch.source, batch.target_input))
        picked = jnp.take_along_axis(log_probs, batch.target_output[..., None], -1)[..., 0]
        return -jnp.where(batch.target_mask, picked, 0).sum() / batch.target_mask.sum()

    value, gradients = jax.value_and_grad(loss)(translator.params)
    expected = translator.loss(["a man runs", "two dogs under the tree"], ["the bird", "a small tree runs"])
    assert value == pytest.approx(expected, rel=1e-5)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_score_is_that_of_the_translations(translator):
    sources = ["a man runs", "two dogs under the tree"]
    own = translator.translate(sources)
    scores = translator.score([(sources[0], own[0]), (sources[1], "nothing like it")])
    assert (scores.exact_match.score, scores.exact_match.sentences) == (50.0, 2)
    assert scores.loss == pytest.approx(translator.loss(sources, [own[0], "nothing like it"]))
    tagged, hypotheses = translator.evaluate(Pairs(sources, own, [("x",), ("x", "y")]))
    assert hypotheses == own
    assert {tag: match.score for tag, match in tagged.exact_match_by_tag.items()} == {"x": 100.0, "y": 100.0}


def test_load_brings_back_what_was_saved(translator, tokenizer, tmp_path):
    run = open_run(tmp_path / "run", translator.config)
    tokenizer.save(run / "tokenizer.json")
    with Checkpoints(run, keep_last=2, fingerprint=tokenizer.fingerprint) as checkpoints:
        for step, variables in ((1, translator.params), (2, variables_of(MODEL, seed=1))):
            state = State(params=variables["params"], batch_stats={}, step=np.array(step))
            checkpoints.save(step, state, {"validation_loss": float(step)})
    sentences = ["a man runs", "two dogs under the tree"]
    loaded = load(run, "best")
    assert loaded.translate(sentences) == translator.translate(sentences)
    assert loaded.config == translator.config
    assert load(run, "last").translate(sentences) != translator.translate(sentences)
    assert load(run, dtype="bfloat16").model.dtype == jnp.bfloat16
    average = load(run, "last", average=2).params["params"]["embedding"]
    both = [load(run, step).params["params"]["embedding"] for step in (1, 2)]
    np.testing.assert_allclose(average, (both[0] + both[1]) / 2, rtol=1e-6)


def test_a_string_a_list_and_a_stream(translator):
    sentences = ["a man runs", "two dogs under the tree"]
    expected = translator.translate(sentences)
    assert translator.translate(sentences[0]) == expected[0]
    assert list(translator.translate(iter(sentences))) == expected


def test_a_stream_is_read_a_window_at_a_time(translator, monkeypatch):
    monkeypatch.setattr("transformer.inference.translator.WINDOW", 4)
    read, sentences = [], ["a man", "", "two dogs", "the bird", "a tree", "old house", "a man"]
    found = translator.translate(read.append(line) or line for line in sentences)
    first = next(found)
    assert len(read) == 4
    assert [first, *found] == translator.translate(sentences)
    with pytest.raises(InputError, match="Line 6 has"):
        list(translator.translate(iter([*sentences[:5], "man " * 200])))


def test_a_long_sentence_is_translated_in_pieces(translator):
    search = dataclasses.replace(SEARCH, long_input="split", num_best=2)
    long = "a man runs. " * 30
    short, found = translator.n_best(["a man runs", long], search)
    assert short[0].text == translator.translate("a man runs")
    assert len(found) == 2
    assert found[0].tokens > 80 or found[0].text.count(" ") > 0
    assert translator.translate(["x" * 500], search) != [""]


def test_pieces_of_a_line_are_samples_of_their_own(translator, monkeypatch):
    numbers = []

    def noticed(members, sources, given, search, ids):
        numbers.append(given.tolist())
        return decode(members, sources, given, search, ids)

    monkeypatch.setattr("transformer.inference.translator.decode", noticed)
    search = dataclasses.replace(SEARCH, long_input="split", sample=True)
    translator.translate(["two dogs", "", "a man runs. " * 30, "the bird"], search)
    (own,) = numbers
    assert len({*own}) == len(own) >= 4
    assert (own[0], own[1], own[-1]) == (0, 2, 3)  # a line's first piece has the line's number


def test_translations_of_pieces_join_where_each_piece_has_one():
    piece, none = [Translation("a", -1.0, 2), Translation("b", -2.0, 3)], Translation("", -math.inf, 0)
    assert _join([piece, [piece[1], none]], 2) == [Translation("a b", -3.0, 5)]
    assert _join([[none], [none]], 1) == [none]


def test_a_line_in_pieces_has_scores_but_no_loss(translator):
    pairs = Pairs(["a man runs. " * 30, "two dogs"], ["the bird", "the tree"])
    assert translator.fit(pairs.sources, pairs.targets) == [False, True]
    scores, hypotheses = translator.evaluate(pairs, dataclasses.replace(SEARCH, long_input="split"))
    assert len(hypotheses) == 2
    assert scores.loss is None
    assert "loss" not in scores.to_text()
    with pytest.raises(InputError, match="positions"):
        translator.evaluate(pairs, SEARCH)


def test_n_best_come_with_their_scores(translator):
    sources = ["a man runs", "", "two dogs under the tree"]
    search = dataclasses.replace(SEARCH, num_best=3, length_penalty_form="power", length_penalty=1.0)
    found = list(translator.n_best(sources, search))
    assert [len(best) for best in found] == [3, 3, 3]
    assert found[1] == [("", 0.0, 0)] * 3
    assert found[0][0].text == translator.translate(sources[0], search)
    for best in found[::2]:
        assert [one.score for one in best] == sorted((one.score for one in best), reverse=True)
        assert len({one.score for one in best}) == 3  # of other tokens, though perhaps of one text


def test_log_probabilities_are_those_of_the_loss(translator):
    sources, targets = ["a man runs", "two dogs under the tree"], ["the bird", "a small tree runs"]
    log_probs = translator.log_probabilities(sources, targets)
    assert translator.loss(sources, targets) == pytest.approx(-np.concatenate(log_probs).mean(), rel=1e-5)
    alone = translator.log_probabilities(sources[1:], targets[1:])[0]
    np.testing.assert_allclose(alone, log_probs[1], rtol=1e-5)


def test_what_may_be_said(translator, tokenizer):
    sentences = ["a man runs", "two dogs under the tree"]
    search = dataclasses.replace(SEARCH, prefix="the bird", forbidden=("man",), min_length=6, no_repeat_ngram=2)
    for best in translator.n_best(sentences, search):
        assert best[0].text.startswith("the bird")
        assert best[0].tokens >= 6
        assert "man" not in best[0].text.split()
    shortest = dataclasses.replace(SEARCH, max_length=4, num_best=2)
    for best in translator.n_best(sentences, shortest):
        assert max(found.tokens for found in best) <= 4
    both = search_ids(tokenizer, SearchConfig(forbidden=("a",))).forbidden
    assert len(both) == 2  # behind a space, and without one
    assert tokenizer.pieces(both) == ["a", "a"]
    for special in ("</s>", "<pad>"):
        with pytest.raises(InputError, match="Only what is one piece"):
            search_ids(tokenizer, SearchConfig(forbidden=(special,)))
    with pytest.raises(InputError, match=r"Only what is one piece .* 'incomprehensible' is"):
        translator.translate(sentences, dataclasses.replace(SEARCH, forbidden=("incomprehensible",)))


def test_samples_depend_on_the_place_in_the_input_alone(translator):
    generator = random.Random(2)
    sentences = [sentence(generator, generator.randint(1, 10)) for _ in range(12)]
    search = dataclasses.replace(SEARCH, sample=True, num_best=2, temperature=0.7, top_p=0.9, seed=5)

    def draw(sentences, search):
        return [[sample.text for sample in samples] for samples in translator.n_best(sentences, search)]

    together = draw(sentences, search)
    assert draw(sentences[:5], dataclasses.replace(search, batch_tokens=1)) == together[:5]
    assert any(first != second for first, second in together)
    assert draw(sentences, dataclasses.replace(search, seed=6)) != together


def test_an_ensemble_has_the_positions_of_its_shortest_member(translator):
    config = dataclasses.replace(MODEL, max_positions=20, positions="learned")
    shorter = dataclasses.replace(translator, model=Transformer(config), params=variables_of(config))
    both, source = ensemble([translator, shorter]), ["a man runs under the old tree"]
    assert np.isfinite(both.log_probabilities(source, source)[0]).all()
    with pytest.raises(InputError, match="positions for 20"):
        both.log_probabilities(["man " * 30], source)


def test_an_ensemble_searches_the_mean_of_probabilities(translator, tokenizer):
    second = dataclasses.replace(translator, params=variables_of(MODEL, seed=1))
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
    strange = Tokenizer.train(["other words here"] * 9 + ["x y z"], 262, TokenizerConfig())
    with pytest.raises(InputError, match="need one tokenizer, but number 2"):
        ensemble([translator, dataclasses.replace(second, tokenizer=strange)])


def test_alignments_are_the_strongest_attention(translator):
    sources, targets = ["two dogs under the tree", "a man"], ["a small tree runs", "the bird"]
    found = translator.alignments(sources, targets)
    for source, target, places in zip(sources, targets, found, strict=True):
        batch = translator.batch([source], [target])
        _, weights = translator.apply(translator.params, batch.source, batch.target_input, return_weights=True)
        assert places == weights["cross"][0, 0].mean(0).argmax(-1).tolist()

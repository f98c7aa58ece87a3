"""Probabilities, losses and attention of given translations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.errors import InputError
from transformer.inference import forced_decoding
from transformer.model import Transformer

pytestmark = pytest.mark.usefixtures("quick_compilation")


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
def test_loss_of_a_corpus_is_the_mean_over_the_tokens_of_its_pairs(
    translator, norm, draw_variables, random_sentences, monkeypatch
):
    """Compares batches of several shapes with one pair at a time."""
    config = dataclasses.replace(translator.config.model, norm=norm)
    params = draw_variables(config)
    if norm == "batch":  # other running statistics than 0 and 1
        draw = np.random.default_rng(0)
        params["batch_stats"] = jax.tree.map(lambda leaf: leaf + draw.uniform(0, 1, leaf.shape), params["batch_stats"])
    translator = dataclasses.replace(translator, model=Transformer(config), params=params)
    sentences = random_sentences(1, 80, 24)
    sources, targets = sentences[:40], sentences[40:]
    whole, loss = translator.batch(sources, targets), 0.0
    for row, length in enumerate(whole.target_mask.sum(axis=1)):
        logits = translator.apply(params, whole.source[row : row + 1], whole.target_input[row : row + 1])
        log_probs = jax.nn.log_softmax(logits)[0, np.arange(length), whole.target_output[row, :length]]
        loss -= float(log_probs.sum())
    shapes, original = [], forced_decoding.token_log_probabilities

    def noticed(models, params, batch):
        shapes.append(batch.target_output.shape)
        return original(models, params, batch)

    monkeypatch.setattr(forced_decoding, "LOGITS", 60)
    monkeypatch.setattr(forced_decoding, "token_log_probabilities", noticed)
    assert translator.loss(sources, targets) == pytest.approx(loss / whole.target_mask.sum(), rel=1e-5)
    assert len(shapes) > len({*shapes}) > 1
    assert any(rows * width > 60 for rows, width in shapes)


def test_log_probabilities_are_those_of_the_loss(translator):
    sources, targets = ["a man runs", "two dogs under the tree"], ["the bird", "a small tree runs"]
    log_probs = translator.log_probabilities(sources, targets)
    assert translator.loss(sources, targets) == pytest.approx(-np.concatenate(log_probs).mean(), rel=1e-5)
    alone = translator.log_probabilities(sources[1:], targets[1:])[0]
    np.testing.assert_allclose(alone, log_probs[1], rtol=1e-5)


def test_alignments_are_the_strongest_attention(translator):
    sources, targets = ["two dogs under the tree", "a man"], ["a small tree runs", "the bird"]
    found = translator.alignments(sources, targets)
    for source, target, indices in zip(sources, targets, found, strict=True):
        batch = translator.batch([source], [target])
        _, weights = translator.apply(translator.params, batch.source, batch.target_input, return_weights=True)
        assert indices == weights["cross"][0, 0].mean(0).argmax(-1).tolist()


def test_a_batch_has_a_pair_in_each_row_in_order(translator, tokenizer, random_sentences):
    sentences = random_sentences(0, 70, 6)
    sources, targets = sentences[:35], sentences[35:]
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
    with pytest.raises(
        InputError, match=r"The target of pair 2 of the given text has \d+ tokens, but .* positions for 80"
    ):
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

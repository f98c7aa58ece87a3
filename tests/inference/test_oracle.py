"""Translations compared with a NumPy decoder without cache, batches or jit."""

import dataclasses
import itertools
import math
import random
from functools import partial

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from transformer import parameters
from transformer.config import Config, ModelConfig, SearchConfig, TokenizerConfig
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.inference.translator import Translator
from transformer.model import Transformer

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = ModelConfig(
    vocabulary_size=275,
    d_model=32,
    num_heads=4,
    d_ff=64,
    num_encoder_layers=1,
    num_decoder_layers=1,
    max_positions=48,
    dtype="float32",
)
WORDS = ["ba", "do", "gi", "ku", "me", "no", "ri", "so", "ta"]


@pytest.fixture(scope="module")
def translator():
    """A model trained briefly to reverse words, and so unsure of many translations."""
    generator = random.Random(0)
    sources = [" ".join(generator.choices(WORDS, k=generator.randint(1, 7))) for _ in range(512)]
    targets = [" ".join(reversed(source.split())) for source in sources]
    tokenizer = BpeTokenizer.train(sources, MODEL.vocabulary_size, TokenizerConfig())
    config = Config(model=MODEL, data=dataclasses.replace(Config().data, max_length=MODEL.max_positions))
    model = Transformer(MODEL)
    whole = Translator(config, model, {}, tokenizer).batch(sources, targets)
    params = jax.device_put(parameters.draw(model, 0))
    optimizer = optax.adam(5e-3)

    @jax.jit
    def train(params, state, key):
        rows = jax.random.randint(key, (64,), 0, len(sources))
        batch = jax.tree.map(lambda leaf: leaf[rows], jax.tree.map(jax.numpy.asarray, whole))

        def loss(params):
            total, count = model.apply(params, batch, method="loss")
            return total / count

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for key in jax.random.split(jax.random.key(1), 60):
        params, state = train(params, state, key)
    return Translator(config, model, params, tokenizer)


def next_log_probs(p, source, target):
    """Computes next-token log-probabilities by Figure 1, in float64 for one sentence."""

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        return p[f"{name}/norm/scale"] * centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) + p[f"{name}/norm/bias"]

    def attend(name, x, memory, visible):
        query, key, value = (
            (y @ p[f"{name}/{part}/kernel"]).reshape(len(y), MODEL.num_heads, -1).swapaxes(0, 1)
            for part, y in (("query", x), ("key", memory), ("value", memory))
        )
        scores = np.where(visible, query @ key.swapaxes(1, 2) / math.sqrt(key.shape[-1]), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ value).swapaxes(0, 1).reshape(len(x), -1) @ p[f"{name}/output/kernel"]

    def feed_forward(name, x):
        hidden = np.maximum(x @ p[f"{name}/kernel_in"] + p[f"{name}/bias_in"], 0)
        return hidden @ p[f"{name}/kernel_out"] + p[f"{name}/bias_out"]

    def embed(tokens):
        angles = np.arange(len(tokens))[:, None] / 10000 ** (np.arange(0, MODEL.d_model, 2) / MODEL.d_model)
        positions = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(len(tokens), -1)
        return p["embedding"][np.array(tokens)] * math.sqrt(MODEL.d_model) + positions

    memory = embed(source)
    memory = norm(
        "encoder/layers/self_attention_norm", memory + attend("encoder/layers/self_attention", memory, memory, True)
    )
    memory = norm("encoder/layers/feed_forward_norm", memory + feed_forward("encoder/layers/feed_forward", memory))
    x, causal = embed(target), np.tri(len(target), dtype=bool)
    x = norm("decoder/layers/self_attention_norm", x + attend("decoder/layers/self_attention", x, x, causal))
    x = norm("decoder/layers/cross_attention_norm", x + attend("decoder/layers/cross_attention", x, memory, True))
    x = norm("decoder/layers/feed_forward_norm", x + feed_forward("decoder/layers/feed_forward", x))
    logits = x[-1] @ p["embedding"].T
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def decode(scorer, longest, beam_size, alpha, special_ids):
    """Runs the beam search of section 6.1 on lists of (score, tokens), best first."""
    _, start_id, end_id = special_ids

    def score(log_prob, length):
        return log_prob / ((5 + length) / 6) ** alpha

    live, finished = [(0.0, ())], []
    for length in range(1, longest + 1):
        after = [(log_prob, tokens, scorer((start_id, *tokens))) for log_prob, tokens in live]
        words = [
            (log_prob + of_next[token], (*tokens, token))
            for log_prob, tokens, of_next in after
            for token in set(range(len(of_next))) - set(special_ids)
        ]
        live = sorted(words, reverse=True)[:beam_size]
        endings = [(log_prob + of_next[end_id], (*tokens, end_id)) for log_prob, tokens, of_next in after]
        threshold = sorted([log_prob for log_prob, _ in live + endings], reverse=True)[beam_size - 1]
        finished += [
            (score(log_prob, length), tokens)
            for log_prob, tokens in endings
            if length == longest or log_prob >= threshold
        ]
        finished.sort(reverse=True)
        if finished and finished[0][0] >= score(live[0][0], longest):
            break
    return finished


@pytest.mark.parametrize("beam_size", [1, 4, 8])
def test_translations_are_those_of_numpy(translator, beam_size):
    generator = random.Random(1)
    sentences = [" ".join(generator.choices(WORDS, k=generator.randint(1, 8))) for _ in range(12)]
    search = SearchConfig(beam_size=beam_size, extra_length=6, length_penalty=0.6)
    tokenizer = translator.tokenizer
    arrays = {
        "/".join(path): np.asarray(leaf, np.float64)[0 if "layers" in path else ...]  # one layer per side
        for path, leaf in flatten_dict(jax.device_get(translator.params)["params"]).items()
    }
    found = list(translator.n_best(sentences, search))
    special_ids, compared = (tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id), 0
    log_probs = translator.log_probabilities(sentences, [best[0].text for best in found])
    for sentence, own, (best, *_) in zip(sentences, log_probs, found, strict=True):
        source = [*tokenizer.encode_batch([sentence])[0], tokenizer.end_id]
        scorer = partial(next_log_probs, arrays, source)
        alpha = 0.6 if beam_size > 1 else 0.0
        score, tokens = decode(scorer, len(source) + 6, beam_size, alpha, special_ids)[0]
        assert best.text == tokenizer.decode_batch([tokens])[0]
        assert best.tokens == len(tokens)
        assert best.score == pytest.approx(score, rel=1e-4, abs=1e-5)
        if tokenizer.encode_batch([best.text])[0] == list(tokens[:-1]):
            compared += 1
            assert own.sum() == pytest.approx(score * ((5 + len(tokens)) / 6) ** alpha, rel=1e-4, abs=1e-5)
    assert compared > 6
    assert len({best[0].tokens for best in found}) > 3
    right = [best[0].text.split() == sentence.split()[::-1] for sentence, best in zip(sentences, found, strict=True)]
    assert any(right)


def test_neighbours_order_and_batch_size_change_nothing(translator):
    generator = random.Random(2)
    sentences = [" ".join(generator.choices(WORDS, k=generator.randint(0, 8))) for _ in range(30)]
    search = SearchConfig(beam_size=4, extra_length=6)
    alone = [translator.translate(sentence, search) for sentence in sentences[:10]]
    for shuffle, batch_tokens in itertools.product(range(2), (64, 8192)):
        order = random.Random(shuffle).sample(range(30), 30)
        of_size = dataclasses.replace(search, batch_tokens=batch_tokens)
        together = translator.translate([sentences[index] for index in order], of_size)
        assert [together[order.index(index)] for index in range(10)] == alone

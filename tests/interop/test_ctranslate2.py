"""Models in the format of CTranslate2 compute and translate as ours do."""

import copy
import dataclasses
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from transformer import parameters
from transformer.config import Config, DataConfig, ModelConfig, SearchConfig
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.errors import InputError
from transformer.inference.translation import Translation
from transformer.inference.translator import Translator
from transformer.model import Transformer

ctranslate2 = pytest.importorskip("ctranslate2", reason="needs ctranslate2 (the extra interop)")

from transformer.interop.ctranslate2 import make_spec  # noqa: E402
from transformer.interop.engine import Engine  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")
WORDS = ("a", "the", "two", "old", "small", "red", "man", "dogs", "bird", "house", "tree", "runs", "sees", "under")
MODEL = ModelConfig(
    vocabulary_size=300,
    d_model=32,
    num_heads=4,
    d_ff=64,
    num_encoder_layers=1,
    num_decoder_layers=2,
    max_positions=40,
    dtype="float32",
)
ARCHITECTURES: list[dict[str, Any]] = [
    {},
    {
        "positions": "halved_t2t",
        "activation": "gelu",
        "norm_position": "pre",
        "norm_epsilon": 1e-3,
        "attention_bias": True,
        "final_logits_bias": True,
        "shared_embeddings": "target",
    },
    {
        "positions": "rotary",
        "activation": "swish",
        "norm": "rms",
        "shared_embeddings": "none",
        "target_vocabulary_size": 290,
    },
    {
        "positions": "learned",
        "activation": "gelu_sigmoid",
        "norm": "rms",
        "norm_position": "pre",
        "norm_epsilon": 1e-2,
        "scale_embeddings": False,
        "decoder_start": "zeros",
    },
]


def sentences(seed: int, number: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(3, 6))) for _ in range(number)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return BpeTokenizer.train(sentences(0, 200), MODEL.vocabulary_size, Config().tokenizer)


def untrained(model: ModelConfig, tokenizer: Tokenizer, factor: float) -> Translator:
    """A model whose biases and scales differ from 0 and 1."""
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (factor * leaf + 0.1 * generator.normal(size=leaf.shape)).astype(np.float32),
        parameters.draw(Transformer(model), 0)["params"],
    )
    config = Config(model=model, data=DataConfig(max_length=40), search=SearchConfig(extra_length=6))
    return Translator(config, Transformer(model), {"params": params}, tokenizer)


def engine_of(translator: Translator, folder: Path, compute_type: str = "float32") -> Engine:
    make_spec(translator.config.model, translator.params["params"], translator.tokenizer).save(str(folder))
    return Engine(folder, translator.config, translator.tokenizer, compute_type)


@pytest.mark.parametrize("change", ARCHITECTURES, ids=lambda change: change.get("positions", "paper"))
def test_token_log_probabilities_are_ours(change: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path) -> None:
    if size := change.get("target_vocabulary_size"):
        tokenizer = copy.copy(tokenizer)
        tokenizer.target = BpeTokenizer.train(sentences(4, 200), size, Config().tokenizer)
    translator = untrained(dataclasses.replace(MODEL, **change), tokenizer, factor=1.5)
    sources, targets = sentences(1, 8), sentences(2, 8)
    engine_of(translator, tmp_path)
    pairs = []
    for vocabulary, texts, end in ((tokenizer.source, sources, [tokenizer.end_id]), (tokenizer.target, targets, [])):
        names = vocabulary.spellings()
        pairs.append([[names[index] for index in ids + end] for ids in vocabulary.encode_batch(texts)])
    scored = ctranslate2.Translator(str(tmp_path), compute_type="float32").score_batch(*pairs)
    for found, expected in zip(scored, translator.log_probabilities(sources, targets), strict=True):
        np.testing.assert_allclose(found.log_probs, expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def translator(tokenizer: Tokenizer) -> Translator:
    """A model that ends most translations before their maximum length, and some at it."""
    found = untrained(dataclasses.replace(MODEL, num_decoder_layers=1, final_logits_bias=True), tokenizer, factor=2.5)
    found.params["params"]["logits_bias"][[tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id]] = -20, -20, 20
    return found


@pytest.fixture(scope="module")
def engine(translator: Translator, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_of(translator, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("beam_size", [1, 4])
def test_translations_are_ours(beam_size: int, translator: Translator, engine: Engine) -> None:
    search = dataclasses.replace(translator.config.search, beam_size=beam_size)
    lines = [*sentences(3, 30), ""]
    ours, theirs = (best_of(one, lines, search) for one in (translator, engine))
    assert len({translation.text for translation in ours}) > 20
    limits = [len(ids) + 1 + search.extra_length for ids in translator.tokenizer.source.encode_batch(lines)]
    assert 3 < sum(own.tokens == limit for own, limit in zip(ours, limits, strict=True)) < 28
    for own, other in zip(ours, theirs, strict=True):
        assert other._replace(score=own.score) == own
        assert other.score == pytest.approx(own.score, abs=1e-3)


def best_of(one: Translator | Engine, lines: list[str], search: SearchConfig) -> list[Translation]:
    return [found[0] for window in one.windows(lines, search) for found in window.translations]


def test_batch_norm_is_refused(tokenizer: Tokenizer) -> None:
    model = dataclasses.replace(MODEL, norm="batch")
    with pytest.raises(
        InputError, match=r"^CTranslate2 has no batch norm, which this model uses \(model\.norm=batch\)"
    ):
        make_spec(model, {}, tokenizer)

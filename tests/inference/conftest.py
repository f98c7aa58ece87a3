"""Untrained models, whose translations differ and have many lengths."""

import random
from collections.abc import Callable
from typing import Any

import jax
import pytest

from transformer import parameters
from transformer.config import Config, DataConfig, ModelConfig, SearchConfig
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.inference.translator import Translator
from transformer.model import Transformer

TINY = Config(
    data=DataConfig(max_length=40),
    search=SearchConfig(extra_length=6, batch_tokens=256),
    model=ModelConfig(
        vocabulary_size=270,
        d_model=16,
        num_heads=2,
        d_ff=32,
        num_encoder_layers=1,
        num_decoder_layers=1,
        max_positions=40,
        final_logits_bias=True,
        dtype="float32",
    ),
)
SMALL = Config(
    data=DataConfig(max_length=80),
    search=SearchConfig(extra_length=10, batch_tokens=256),
    model=ModelConfig(
        vocabulary_size=300,
        d_model=32,
        num_heads=4,
        d_ff=64,
        num_encoder_layers=1,
        num_decoder_layers=1,
        max_positions=80,
        dtype="float32",
    ),
)
WORDS = ("a", "the", "two", "old", "small", "red", "man", "dogs", "bird", "house", "tree", "runs", "sees")
WORDS += ("under", "over")


def draw(config: ModelConfig, seed: int, factor: float) -> Any:
    """Draws parameters larger than initial ones, so that translations differ."""
    variables = parameters.draw(Transformer(config), seed)
    larger = jax.tree.map(
        lambda leaf, is_matrix: leaf * factor if is_matrix else leaf,
        variables["params"],
        parameters.are_matrices(variables["params"]),
    )
    return jax.device_put({**variables, "params": larger})


@pytest.fixture(scope="session")
def random_translator() -> Translator:
    texts = ["seven men see seventeen seas", "the men see the sea then"] * 20
    tokenizer = BpeTokenizer.train(texts, 270, TINY.tokenizer)
    return Translator(TINY, Transformer(TINY.model), draw(TINY.model, 3, 3), tokenizer)


@pytest.fixture(scope="session")
def draw_variables() -> Callable[..., Any]:
    """Draws variables for a model with a config like the one of `translator`."""
    return lambda config, seed=0: draw(config, seed, 2)


@pytest.fixture(scope="session")
def random_sentences() -> Callable[[int, int, int], list[str]]:
    """Makes sentences of at most `longest` words that `tokenizer` was trained on."""

    def make(seed: int, number: int, longest: int) -> list[str]:
        generator = random.Random(seed)
        lengths = (generator.randint(1, longest) for _ in range(number))
        return [" ".join(generator.choice(WORDS) for _ in range(words)) for words in lengths]

    return make


@pytest.fixture(scope="session")
def tokenizer() -> BpeTokenizer:
    generator = random.Random(0)
    texts = [" ".join(generator.choice(WORDS) for _ in range(8)) for _ in range(200)]
    return BpeTokenizer.train(texts, SMALL.model.vocabulary_size, SMALL.tokenizer)


@pytest.fixture(scope="session")
def translator(tokenizer) -> Translator:
    return Translator(SMALL, Transformer(SMALL.model), draw(SMALL.model, 0, 2), tokenizer)

"""An untrained run, whose attention weights are spread over all tokens."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.analysis.attention import KINDS, Attention, Kind
from transformer.analysis.view import View
from transformer.config import Config, DataConfig, ModelConfig, SearchConfig, TokenizerConfig
from transformer.data.tokenizer import TokenizedText
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.model import Transformer
from transformer.run import Run

MODEL = ModelConfig(
    vocabulary_size=300,
    d_model=16,
    num_heads=4,
    d_ff=32,
    num_encoder_layers=2,
    num_decoder_layers=1,
    max_positions=128,
    dtype="float32",
)
TEXTS = ["the law is good, but its use is bad", "das Gesetz ist gut, aber sein Nutzen ist schlecht", "the old dog"] * 20


@pytest.fixture(scope="session")
def run() -> Run:
    tokenizer = BpeTokenizer.train(TEXTS, 300, TokenizerConfig())
    tokens = jnp.zeros((1, 1), int)
    shapes = jax.eval_shape(Transformer(MODEL).init, jax.random.key(0), tokens, tokens == 0, tokens)  # compiles nothing
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: generator.normal(0, 0.5, leaf.shape).astype(np.float32), dict(shapes))
    search = SearchConfig(beam_size=1, extra_length=2)
    config = Config(model=MODEL, search=search, data=DataConfig(max_length=MODEL.max_positions))
    return Run(config, Transformer(MODEL), jax.device_put(variables), tokenizer)


@pytest.fixture(scope="session")
def view(run) -> View:
    """The attention of one sentence pair for all tests, because each length is compiled separately."""
    return run.attention("the law is € good, but its use", "das Gesetz ist gut")


@pytest.fixture(scope="session")
def make_attention() -> Callable[[list[str], int, int], Attention]:
    """Makes random weights between the given tokens, the same for each kind."""

    def make(tokens: list[str], layers: int, heads: int) -> Attention:
        side = TokenizedText(" ".join(tokens), tokens, tokens, [*range(len(tokens))])
        shape = (layers, heads, len(tokens))
        weights = np.random.default_rng(0).dirichlet(np.full(len(tokens), 0.3), shape).astype(np.float32)
        by_kind: dict[Kind, np.ndarray] = {kind: weights[:1, :1] if kind == "rollout" else weights for kind in KINDS}
        return Attention(side, side, by_kind)

    return make

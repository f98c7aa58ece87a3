import jax
import pytest

from transformer import parameters
from transformer.config import Config, DataConfig, ModelConfig, SearchConfig
from transformer.data.tokenizer import Tokenizer
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


@pytest.fixture(scope="session")
def random_translator() -> Translator:
    """An untrained model whose translations are of many lengths, and none of them like another."""
    tokenizer = Tokenizer.train(["seven men see seventeen seas", "the men see the sea then"] * 20, 270, TINY.tokenizer)
    variables = parameters.draw(Transformer(TINY.model), 3)
    larger = {
        "params": jax.tree.map(
            lambda leaf, is_matrix: leaf * 3 if is_matrix else leaf,
            variables["params"],
            parameters.are_matrices(variables["params"]),
        )
    }
    return Translator(TINY, Transformer(TINY.model), jax.device_put(larger), tokenizer)

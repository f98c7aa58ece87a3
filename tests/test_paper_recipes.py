"""What the paper's configurations fix: "Attention Is All You Need", arXiv 1706.03762v5."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from transformer.config import ModelConfig, OptimizerConfig, SearchConfig, TrainingConfig
from transformer.config_files import load_config
from transformer.model import Transformer

BASE = ModelConfig()
BIG = dataclasses.replace(BASE, d_model=1024, d_ff=4096, num_heads=16, dropout=0.3)


@cache
def parameters(config: ModelConfig) -> dict[str, Any]:
    """The parameters by name, as shapes: nothing is allocated."""
    token, mask = jnp.zeros((1, 1), int), jnp.ones((1, 1), bool)
    variables = jax.eval_shape(Transformer(config).init, jax.random.key(0), token, mask, token)
    return flatten_dict(variables["params"], sep="/")


def count(config: ModelConfig) -> int:
    return sum(leaf.size for leaf in parameters(config).values())


def test_section_3_1_base_has_six_layers_each_side_and_normalizes_after_each_sublayer():
    names = parameters(BASE)
    stacks = {"/".join(name.split("/")[:2]) for name in names} - {"embedding"}
    assert stacks == {"encoder/layers", "decoder/layers"}  # no norm outside the layers
    assert {leaf.shape[0] for name, leaf in names.items() if "/layers/" in name} == {6}
    sublayers = {name.split("/")[2] for name in names if name.startswith("decoder/layers/")}
    assert {name for name in sublayers if name.endswith("_norm")} == {
        "self_attention_norm",
        "cross_attention_norm",
        "feed_forward_norm",
    }


@pytest.mark.parametrize("num_heads", [1, 16])
def test_section_3_2_2_heads_share_d_model(num_heads):
    """d_k = d_v = d_model / h, so their number costs no parameter (Table 3, rows A); W^Q holds all heads'."""
    config = dataclasses.replace(BASE, num_heads=num_heads)
    attention = {name: leaf.shape for name, leaf in parameters(config).items() if "encoder/layers/self_att" in name}
    kernels = {
        f"encoder/layers/self_attention/{name}/kernel": (6, 512, 512) for name in ("query", "key", "value", "output")
    }
    assert kernels.items() <= attention.items()
    assert count(config) == count(BASE)


def test_section_3_4_one_matrix_is_both_embeddings_and_the_output_layer():
    assert [name for name, leaf in parameters(BASE).items() if 37_000 in leaf.shape] == ["embedding"]


def test_parameters_of_base_and_big():
    assert count(BASE) == 44_101_632 + 512 * 37_000 == 63_045_632
    assert count(BIG) == 176_283_648 + 1024 * 37_000


@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({}, 65),
        ({"num_encoder_layers": 2, "num_decoder_layers": 2}, 36),
        ({"num_encoder_layers": 4, "num_decoder_layers": 4}, 50),
        ({"num_encoder_layers": 8, "num_decoder_layers": 8}, 80),
        ({"d_model": 256}, 28),
        ({"d_model": 1024}, 168),
        ({"d_ff": 1024}, 53),
        ({"d_ff": 4096}, 90),
        ({"d_model": 1024, "d_ff": 4096, "num_heads": 16}, 213),
    ],
    ids=str,
)
def test_table_3_parameters(changes, millions):
    """The paper's own rounded counts, whose vocabulary was a little larger than the 37,000 of section 5.1."""
    assert abs(count(dataclasses.replace(BASE, **changes)) / 1e6 - millions) < 4.5


def test_table_3_and_section_5_are_the_defaults():
    model = {"num_encoder_layers": 6, "num_decoder_layers": 6, "d_model": 512, "d_ff": 2048, "num_heads": 8}
    paper = {
        BASE: model | {"dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0, "vocabulary_size": 37_000},
        OptimizerConfig(): {
            "name": "adam",
            "b1": 0.9,
            "b2": 0.98,
            "epsilon": 1e-9,
            "schedule": "paper",
            "warmup_steps": 4000,
            "scale": 1.0,
            "weight_decay": 0.0,
            "clip_norm": None,
        },
        TrainingConfig(): {"steps": 100_000, "label_smoothing": 0.1, "batch_tokens": 25_000},
        SearchConfig(): {
            "beam_size": 4,
            "length_penalty": 0.6,
            "length_penalty_form": "wu",
            "extra_length": 50,
        },
    }
    for config, values in paper.items():
        given = dataclasses.asdict(config)
        assert {name: given[name] for name in values} == values


def test_the_defaults_are_the_paper_s_choices():
    """Sections 3.1 to 3.5, where the config offers others."""
    assert (BASE.norm, BASE.norm_position) == ("layer", "post")
    assert (BASE.activation, BASE.positions) == ("relu", "interleaved")
    assert (BASE.shared_embeddings, BASE.scale_embeddings) == ("all", True)
    assert not BASE.attention_bias
    assert not BASE.final_logits_bias


@pytest.mark.parametrize(
    ("name", "model", "steps", "average", "seconds"),
    [
        ("wmt14_base", BASE, 100_000, 5, 12 * 3600),
        ("wmt14_big", BIG, 300_000, 20, 3.5 * 24 * 3600),
    ],
)
def test_the_recipes_of_wmt14(name, model, steps, average, seconds):
    """Table 3 and sections 5 and 6.1: 12 hours for the base model, 3.5 days for the big one."""
    config = load_config(str(Path(__file__).parents[1] / "configs" / f"{name}.py"))
    assert config.model == model
    assert config.optimizer == OptimizerConfig(schedule="paper", warmup_steps=4000, b1=0.9, b2=0.98, epsilon=1e-9)
    training, search = config.training, config.search
    assert (training.steps, training.batch_tokens, training.label_smoothing) == (steps, 25_000, 0.1)
    assert (training.accumulation_steps, training.patience) == (1, None)
    assert (search.beam_size, search.length_penalty, search.length_penalty_form) == (4, 0.6, "wu")
    assert search.extra_length == 50
    assert config.average == average <= training.keep_last
    # "written at 10-minute intervals", the last one after the last step
    assert training.steps % training.validate_every == 0
    assert 9 * 60 <= training.validate_every * seconds / steps <= 11 * 60
    data = config.data
    assert (data.corpus, data.corpus_config) == ("wmt/wmt14", "de-en")
    assert (data.source_language, data.target_language) == ("en", "de")
    assert (data.train, data.validation, data.test) == (("train",), ("validation",), ("test",))

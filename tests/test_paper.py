"""What the paper fixes, section by section: "Attention Is All You Need", arXiv 1706.03762v5."""

import dataclasses
import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer.config import ModelConfig, OptimizerConfig, SearchConfig, TrainingConfig
from transformer.config_files import load_config
from transformer.layers import Dropout
from transformer.model import Transformer
from transformer.ops.attention import scaled_dot_product_attention
from transformer.ops.dropout import dropout_key
from transformer.ops.feed_forward import feed_forward
from transformer.ops.loss import cross_entropy
from transformer.ops.positions import sinusoidal_positions
from transformer.training.optimizer import learning_rate

BASE = ModelConfig()
BIG = dataclasses.replace(BASE, d_model=1024, d_ff=4096, num_heads=16, dropout=0.3)
TINY = ModelConfig(
    vocabulary_size=32, d_model=16, num_heads=2, d_ff=24, num_encoder_layers=1, num_decoder_layers=1, max_positions=16
)
SOURCE, TARGET = np.arange(12).reshape(2, 6), np.arange(20, 30).reshape(2, 5)  # each token once
SOURCE_MASK = np.arange(6) < np.array([[4], [6]])
INPUTS = SOURCE, SOURCE_MASK, TARGET


@cache
def parameters(config: ModelConfig) -> dict[str, Any]:
    """The parameters by name, as shapes: nothing is allocated."""
    token, mask = jnp.zeros((1, 1), int), jnp.ones((1, 1), bool)
    variables = jax.eval_shape(Transformer(config).init, jax.random.key(0), token, mask, token)
    return flatten_dict(variables["params"], sep="/")


def count(config: ModelConfig) -> int:
    return sum(leaf.size for leaf in parameters(config).values())


def drawn(config: ModelConfig) -> dict[str, Any]:
    """Parameters as at the start: random matrices, scales of one, biases of zero."""
    rng = np.random.default_rng(0)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) - ("/layers/" in name) == 1:
            return np.full(shape, name.endswith("/scale"), np.float32)
        return (rng.normal(size=shape) / math.sqrt(config.d_model)).astype(np.float32)

    return unflatten_dict({name: draw(name, leaf.shape) for name, leaf in parameters(config).items()}, sep="/")


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


def test_section_3_1_the_output_of_a_stack_is_normalized():
    """LayerNorm(x + Sublayer(x)) is the last operation, so at the start each position has mean 0 and variance 1."""
    model = Transformer(TINY)
    hidden = jax.jit(partial(model.apply, method="hidden"))({"params": drawn(TINY)}, *INPUTS)
    np.testing.assert_allclose(hidden.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(hidden.var(-1), 1, rtol=1e-4)


def test_equation_1():
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V; with d_k of base, sqrt(d_k) is 8."""
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, 8, length, 64)).astype(np.float32) for length in (5, 7, 7))
    attended, weights = scaled_dot_product_attention(*map(jnp.asarray, (query, key, value)), return_weights=True)
    scores = query.astype(np.float64) @ key.swapaxes(-1, -2) / 8
    assert 0.8 < scores.var() < 1.2  # footnote 4: the products have variance d_k, and softmax would saturate
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    assert weights is not None
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_allclose(attended, expected @ value, atol=1e-5)


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_section_3_2_3_no_position_sees_a_later_one(dtype):
    """The gradient of a position's logits is exactly zero for every later token, and for every token of another row.

    Source and target have embeddings of their own, and each token occurs once, so an embedding's gradient is that of
    one place.
    """
    config = dataclasses.replace(TINY, shared_embeddings="none")
    model, form = Transformer(config, jnp.dtype(dtype)), np.random.default_rng(0).normal(size=config.vocabulary_size)

    @jax.jit
    def is_influenced(params, row, position, *inputs):
        def reading(tables):
            return model.apply({"params": params | tables}, *inputs)[0][row, position] @ jnp.asarray(form, jnp.float32)

        tables = {name: params[name] for name in ("source_embedding", "target_embedding")}
        return jax.tree.map(lambda gradient: (gradient != 0).any(-1), jax.grad(reading)(tables))

    for row, position in np.ndindex(TARGET.shape):
        influenced = is_influenced(drawn(config), row, position, *INPUTS)
        own_row = np.arange(2)[:, None] == row
        np.testing.assert_array_equal(influenced["source_embedding"][SOURCE], own_row & SOURCE_MASK)
        np.testing.assert_array_equal(influenced["target_embedding"][TARGET], own_row & (np.arange(5) <= position))


def test_section_3_2_3_every_source_position_sees_the_whole_source_and_no_padding():
    config = dataclasses.replace(TINY, shared_embeddings="target")
    model, form = Transformer(config), np.random.default_rng(0).normal(size=config.d_model)

    @jax.jit
    def is_influenced(params, row, position, *inputs):
        def reading(table):
            memory, _ = model.apply({"params": params | {"source_embedding": table}}, *inputs, method="encode")
            return memory[row, position] @ jnp.asarray(form, jnp.float32)

        return (jax.grad(reading)(params["source_embedding"]) != 0).any(-1)

    for row, position in np.argwhere(SOURCE_MASK):
        influenced = is_influenced(drawn(config), row, position, SOURCE, SOURCE_MASK)
        np.testing.assert_array_equal(influenced[SOURCE], SOURCE_MASK & (np.arange(2)[:, None] == row))


def test_padding_of_the_source_has_no_influence():
    apply, variables = jax.jit(Transformer(TINY).apply), {"params": drawn(TINY)}
    other_padding = np.where(SOURCE_MASK, SOURCE, 31)
    changed, _ = apply(variables, other_padding, SOURCE_MASK, TARGET)
    np.testing.assert_array_equal(changed, apply(variables, *INPUTS)[0])


def test_equation_2():
    """FFN(x) = max(0, x W1 + b1) W2 + b2, in base from 512 features to 2048 and back, at every position alike."""
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 512), (512, 2048), (2048,), (2048, 512), (512,)]
    arrays = [rng.normal(size=shape).astype(np.float32) / math.sqrt(shape[0]) for shape in shapes]
    x, kernel_in, bias_in, kernel_out, bias_out = (array.astype(np.float64) for array in arrays)
    expected = np.maximum(0, x @ kernel_in + bias_in) @ kernel_out + bias_out
    actual = feed_forward(*map(jnp.asarray, arrays), activation=BASE.activation)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def captured(config: ModelConfig, training: bool) -> dict[str, np.ndarray]:
    """What comes out of each place that has dropout, by name."""

    @jax.jit
    def run(params, *inputs):
        return Transformer(config).apply(
            {"params": params},
            *inputs,
            dropout=dropout_key(0, 0, jnp.arange(2)) if training else None,
            capture_intermediates=lambda module, method: isinstance(module, Dropout) and method == "__call__",
        )[1]["intermediates"]

    outputs: Any = flatten_dict(run(drawn(config), *INPUTS), sep="/")
    return {name.removesuffix("/__call__"): np.asarray(*output) for name, output in outputs.items()}


def test_section_3_4_and_3_5_embeddings_are_scaled_and_positions_added():
    embedding, sums = drawn(TINY)["embedding"].astype(np.float64), captured(TINY, training=False)
    for name, tokens in (("source_dropout", SOURCE), ("target_dropout", TARGET)):
        positions = np.asarray(sinusoidal_positions(tokens.shape[1], 16, "interleaved"))
        np.testing.assert_allclose(sums[name], math.sqrt(16) * embedding[tokens] + positions, atol=1e-6)


def test_section_3_4_one_matrix_is_both_embeddings_and_the_output_layer():
    assert [name for name, leaf in parameters(BASE).items() if 37_000 in leaf.shape] == ["embedding"]
    params, hidden = drawn(TINY), np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
    logits = jax.jit(partial(Transformer(TINY).apply, method="logits"))({"params": params}, hidden)
    np.testing.assert_allclose(logits, hidden @ params["embedding"].T, atol=1e-5)  # and no bias


@pytest.mark.parametrize("shift", [1, 2, 17, 100])
def test_section_3_5_a_shift_is_a_linear_map(shift):
    """PE[pos + k] = R_k PE[pos], where R_k turns the i-th pair of features by k / 10000^(2i/d), whatever pos is."""
    table = np.asarray(sinusoidal_positions(400, 32, "interleaved"), np.float64)
    rotation = np.zeros((32, 32))
    for i in range(16):
        angle = shift / 10000 ** (2 * i / 32)
        pair = slice(2 * i, 2 * i + 2)
        rotation[pair, pair] = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    np.testing.assert_allclose(table[shift:], table[:-shift] @ rotation.T, atol=3e-7)


def test_section_3_5_without_positions_the_encoder_does_not_know_the_order():
    """It is permutation equivariant: neither recurrence nor convolution, hence the need for positions."""
    config = dataclasses.replace(TINY, positions="learned")
    model, params, order = Transformer(config), drawn(config), np.array([3, 0, 5, 2, 4, 1])
    encode = jax.jit(
        lambda params, source: model.apply({"params": params}, source, jnp.ones((2, 6), bool), method="encode")[0]
    )
    for table, known in ((jnp.zeros_like(params["positions"]), False), (params["positions"], True)):
        changed = params | {"positions": table}
        difference = np.abs(encode(changed, SOURCE[:, order]) - encode(changed, SOURCE)[:, order]).max()
        assert (difference > 0.1) if known else (difference < 1e-5)


def test_equation_3():
    """lrate = d_model^-0.5 min(step^-0.5, step warmup^-1.5): up to step 4000, then down; counted from 0 by optax."""
    schedule = learning_rate(OptimizerConfig(), BASE.d_model, TrainingConfig().steps)
    rates = np.asarray(schedule(jnp.arange(100_000)))
    assert 1 + rates.argmax() == 4000
    expected = {1: 1.746928e-7, 2000: 3.493856e-4, 4000: 6.987712e-4, 16_000: 3.493856e-4, 100_000: 1.397542e-4}
    np.testing.assert_allclose([rates[step - 1] for step in expected], list(expected.values()), rtol=1e-6)


def test_section_5_4_residual_dropout_is_on_every_sublayer_and_on_the_sums_of_embeddings_and_positions():
    out = captured(dataclasses.replace(TINY, dropout=0.5), training=True)
    sublayers = ["encoder/layers/self_attention", "encoder/layers/feed_forward"]
    sublayers += [f"decoder/layers/{name}" for name in DECODER_SUBLAYERS]
    assert set(out) == {"source_dropout", "target_dropout", *(f"{name}_norm/dropout" for name in sublayers)}
    for name, values in out.items():
        assert 0.35 < (values == 0).mean() < 0.65, name


DECODER_SUBLAYERS = ("self_attention", "cross_attention", "feed_forward")


def test_section_5_4_label_smoothing_wants_to_be_unsure():
    """The smoothed loss is least where the true token has 1 - eps + eps / V, not 1: it "hurts perplexity"."""
    size, epsilon, target = 10, 0.1, 3
    wanted = np.full(size, epsilon / size)
    wanted[target] += 1 - epsilon

    def loss(logits, label_smoothing):
        token = jnp.array([target]), jnp.array([True])
        return cross_entropy(logits[None], jnp.eye(size), jnp.zeros(size), *token, label_smoothing=label_smoothing)[0]

    @jax.jit
    def losses(best, surer):
        slope = jax.grad(loss)(best, epsilon)
        return slope, [[loss(logits, smoothing) for logits in (best, surer)] for smoothing in (epsilon, 0.0)]

    best = np.log(wanted).astype(np.float32)
    slope, ((smoothed, smoothed_surer), (plain, plain_surer)) = losses(best, best + 3 * (np.arange(size) == target))
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    assert smoothed_surer > smoothed
    assert plain_surer < plain


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

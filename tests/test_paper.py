"""What the paper computes, section by section: "Attention Is All You Need", arXiv 1706.03762v5.

Its configurations: test_paper_recipes.py.
"""

import dataclasses
import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from transformer import parameters
from transformer.config import ModelConfig, OptimizerConfig, TrainingConfig
from transformer.layers import Dropout
from transformer.model import Transformer
from transformer.ops.attention import scaled_dot_product_attention
from transformer.ops.dropout import dropout_key
from transformer.ops.feed_forward import feed_forward
from transformer.ops.loss import cross_entropy
from transformer.ops.positions import sinusoidal_positions
from transformer.shapes import Side
from transformer.training.optimizer import learning_rate

pytestmark = pytest.mark.usefixtures("quick_compilation")

BASE = ModelConfig()
TINY = ModelConfig(
    vocabulary_size=32, d_model=16, num_heads=2, d_ff=24, num_encoder_layers=1, num_decoder_layers=1, max_positions=16
)
SOURCE, TARGET = np.arange(12).reshape(2, 6), np.arange(20, 30).reshape(2, 5)  # each token once
SOURCE_MASK = np.arange(6) < np.array([[4], [6]])
INPUTS = SOURCE, SOURCE_MASK, TARGET


@cache
def drawn(config: ModelConfig) -> dict[str, Any]:
    """Parameters as at the start: random matrices, scales of one, biases of zero."""
    return jax.device_put(parameters.draw(Transformer(config), 0)["params"])


def test_section_3_1_the_output_of_a_stack_is_normalized():
    """LayerNorm(x + Sublayer(x)) is the last operation, so at the start each position has mean 0 and variance 1."""
    apply = partial(Transformer(TINY).apply, {"params": drawn(TINY)})
    source, target = Side(jnp.asarray(SOURCE), jnp.asarray(SOURCE_MASK)), Side(jnp.asarray(TARGET))
    memory, _ = jax.jit(partial(apply, method="encode"))(source)
    decoded, _ = jax.jit(partial(apply, method="decode"))(target, memory, source)
    for output in (memory, decoded):
        np.testing.assert_allclose(output.mean(-1), 0, atol=1e-6)
        np.testing.assert_allclose(output.var(-1), 1, rtol=1e-4)


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
            memory, _ = model.apply({"params": params | {"source_embedding": table}}, Side(*inputs), method="encode")
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
    embedding, sums = np.asarray(drawn(TINY)["embedding"], np.float64), captured(TINY, training=False)
    for name, tokens in (("source_dropout", SOURCE), ("target_dropout", TARGET)):
        positions = np.asarray(sinusoidal_positions(tokens.shape[1], 16, "interleaved"))
        np.testing.assert_allclose(sums[name], math.sqrt(16) * embedding[tokens] + positions, atol=1e-6)


def test_section_3_4_the_embedding_is_the_output_layer():
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
    encode = jax.jit(lambda params, source: model.apply({"params": params}, Side(source), method="encode")[0])
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

"""The ways into a model: apart and together, with weights and without, and what dropout depends on."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer import parameters
from transformer.config import ModelConfig
from transformer.model import Transformer
from transformer.ops.dropout import dropout_key
from transformer.shapes import Batch, Side

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = ModelConfig(
    vocabulary_size=19,
    d_model=8,
    num_heads=2,
    d_ff=12,
    num_encoder_layers=2,
    num_decoder_layers=2,
    max_positions=16,
    dropout=0.2,
    attention_dropout=0.1,
    activation_dropout=0.3,
)
SOURCE, TARGET = jnp.asarray(np.random.default_rng(1).integers(CONFIG.vocabulary_size, size=(2, 3, 8)))
SOURCE_MASK = jnp.arange(8) < jnp.array([[8], [6], [0]])  # the last row is nothing but padding
INPUTS = SOURCE, SOURCE_MASK, TARGET[:, :7]
ROW = np.array([4, 0, 7])


@pytest.fixture(scope="module")
def apply() -> Callable:
    model = Transformer(CONFIG)
    return partial(model.apply, jax.device_put(parameters.draw(model, 0)))


def test_weights_are_no_part_of_the_program_unless_asked_for(apply):
    without, asked = (jax.make_jaxpr(partial(apply, return_weights=asked))(*INPUTS) for asked in (False, True))
    assert len(without.out_avals) == 1
    assert len(asked.out_avals) == 4
    assert len(without.eqns) == len(asked.eqns)
    assert jax.eval_shape(partial(apply, method="encode"), Side(SOURCE, SOURCE_MASK))[1] == {}
    assert jax.eval_shape(apply, *INPUTS)[1] == {}


def test_encode_decode_and_logits_are_the_whole(apply):
    @jax.jit
    def both(source, source_mask, target):
        sides = Side(source, source_mask), Side(target)
        memory, encoder_weights = apply(sides[0], return_weights=True, method="encode")
        x, decoder_weights = apply(sides[1], memory, sides[0], return_weights=True, method="decode")
        logits = apply(x, method="logits")
        return (logits, encoder_weights | decoder_weights), apply(source, source_mask, target, return_weights=True)

    jax.tree.map(np.testing.assert_array_equal, *both(*INPUTS))


def test_without_a_mask_there_is_no_padding(apply):
    masked, unmasked = (
        jax.jit(lambda source, mask=mask: apply(Side(source, mask), method="encode")[0])(SOURCE)
        for mask in (jnp.ones(SOURCE.shape, bool), None)
    )
    np.testing.assert_allclose(unmasked, masked, atol=1e-5)


def test_the_loss_takes_a_traced_label_smoothing(apply):
    inputs, length = (SOURCE, SOURCE_MASK, TARGET[:, :7], TARGET[:, 1:]), jnp.array([[7], [4], [0]])
    batch = Batch(*inputs, target_mask=jnp.arange(7) < length, row=jnp.arange(3))
    loss = partial(apply, batch, method="loss")
    traced, static = jax.jit(lambda eps: (loss(label_smoothing=eps), loss(label_smoothing=0.1)))(0.1)
    np.testing.assert_allclose(traced, static, rtol=1e-5)


def test_dropout_depends_on_step_and_row_alone(apply):
    @jax.jit
    def logits(step, row, *inputs):
        return apply(*inputs, dropout=dropout_key(0, step, row))[0]

    first = logits(0, ROW, *INPUTS)
    np.testing.assert_array_equal(logits(0, ROW, *INPUTS), first)
    assert (logits(1, ROW, *INPUTS) != first).mean() > 0.9
    assert (logits(0, ROW + 1, *INPUTS) != first).mean() > 0.9
    turned = logits(0, ROW[::-1], *(array[::-1] for array in INPUTS))
    np.testing.assert_allclose(turned[::-1], first, atol=1e-5)


def test_rotary_scores_of_equal_tokens_depend_on_their_distance_alone():
    """In self-attention. The encoder's outputs are all alike, and attention to them is uniform: it is not rotated."""
    model = Transformer(dataclasses.replace(CONFIG, positions="rotary"))
    tokens = jnp.full((1, 7), 5)
    variables = jax.device_put(parameters.draw(model, 0))
    _, weights = jax.jit(partial(model.apply, return_weights=True))(variables, tokens, tokens > 0, tokens)
    for kind in ("encoder", "decoder"):
        for head in np.log(np.maximum(weights[kind][0, 0], 1e-30)):  # 0 where the causal mask is
            relative = head - np.diagonal(head)[:, None]
            assert np.ptp(relative[-1]) > 1e-3
            for distance in range(-6, 7 if kind == "encoder" else 1):
                np.testing.assert_allclose(np.ptp(np.diagonal(relative, distance)), 0, atol=1e-5)
    np.testing.assert_allclose(weights["cross"], 1 / 7, rtol=1e-5)

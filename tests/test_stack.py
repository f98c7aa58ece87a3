"""A stack is one layer, scanned: however far the loop is unrolled, the model is the same."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics import quick_jit

from transformer import parameters
from transformer.config import ModelConfig
from transformer.model import Transformer
from transformer.ops.dropout import dropout_key
from transformer.shapes import Side

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = ModelConfig(
    vocabulary_size=30,
    d_model=16,
    num_heads=2,
    d_ff=24,
    num_encoder_layers=2,
    num_decoder_layers=3,
    max_positions=16,
    dropout=0.2,
)
LENGTH, HYPOTHESES = 6, 2
SOURCE = jnp.asarray(np.random.default_rng(0).integers(3, 30, (2, 7)))
SOURCE_MASK = jnp.arange(7) < jnp.array([[7], [4]])
TARGET = jnp.asarray(np.random.default_rng(1).integers(3, 30, (2, LENGTH)))


def unrolled(scan_unroll: int | None, **changes: Any) -> tuple[Transformer, Any]:
    model = Transformer(dataclasses.replace(CONFIG, scan_unroll=scan_unroll, **changes))
    return model, jax.device_put(parameters.draw(model, 0))


@cache
def outputs(scan_unroll: int | None, **changes: Any) -> Any:
    """Logits, attention weights, new statistics and gradients of a training step's forward pass."""
    model, variables = unrolled(scan_unroll, **changes)
    statistics = {name: tree for name, tree in variables.items() if name != "params"}

    @quick_jit
    def run(params: Any) -> Any:
        def total(params: Any) -> Any:
            key = dropout_key(0, 1, jnp.arange(2))
            (logits, weights), new = model.apply(
                {"params": params, **statistics},
                SOURCE,
                SOURCE_MASK,
                TARGET,
                dropout=key,
                return_weights=True,
                mutable=list(statistics),
            )
            return (logits**2).mean(), (logits, weights, new)

        return jax.value_and_grad(total, has_aux=True)(params)

    return run(variables["params"])


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        # The gradient of a bias before batch norm is 0 up to rounding, hence the lower bound.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=max(1e-7, 1e-5 * float(np.abs(other).max())))


# One layer; two, which do not divide the decoder's three; more than there are.
@pytest.mark.parametrize(
    ("changes", "unrollings"),
    [
        ({}, (1, 100)),
        ({"norm": "batch", "norm_position": "pre"}, (1, 2)),  # also stacks statistics, and compiles fast
        ({"implementation": "plain"}, (1,)),
    ],
    ids=str,
)
def test_however_far_the_loop_is_unrolled_the_result_is_the_same(changes, unrollings):
    expected = outputs(None, **changes)
    for scan_unroll in unrollings:
        assert_same(outputs(scan_unroll, **changes), expected)


@pytest.mark.parametrize(("rematerialization", "scan_unroll"), [("dots", None), ("layer", 1)])
def test_what_is_computed_again_changes_nothing(rematerialization, scan_unroll):
    changes: Any = {"norm": "batch", "norm_position": "pre"}  # updates statistics, and compiles fast
    actual = outputs(scan_unroll, rematerialization=rematerialization, **changes)
    assert_same(actual, outputs(scan_unroll, **changes))


def test_what_is_computed_again():
    """`dots` repeats no product of a projection and no fused attention, `layer` repeats all of them."""

    def saved_and_products(rematerialization: str) -> tuple[int, int]:
        changes: Any = {"rematerialization": rematerialization, "attention": "fused"}
        model, variables = unrolled(1, **changes)

        def loss(variables: Any) -> Any:
            return model.apply(variables, SOURCE, SOURCE_MASK, TARGET)[0].sum()

        residuals = jax.eval_shape(lambda variables: jax.vjp(loss, variables)[1], variables)
        program = str(jax.make_jaxpr(jax.grad(loss))(variables))
        return sum(leaf.size for leaf in jax.tree.leaves(residuals)), program.count("dot_general")

    (none, products), (dots, again), (layer, all_again) = map(saved_and_products, ("none", "dots", "layer"))
    assert none > dots > layer
    assert products == again < all_again


def test_decoding_step_by_step_equals_the_whole_at_any_unrolling():
    """Two hypotheses a sentence, both the same: each attends to its own tokens in the shared cache. Positions that are
    added to the embeddings never reach the layers: rotary ones do."""
    model, variables = unrolled(None, positions="rotary")
    whole, _ = jax.jit(model.apply)(variables, SOURCE, SOURCE_MASK, TARGET)
    memory, _ = jax.jit(partial(model.apply, method="encode"))(variables, Side(SOURCE, SOURCE_MASK))
    for scan_unroll in (None, 1, 2):
        model, variables = unrolled(scan_unroll, positions="rotary")
        apply = partial(model.apply, variables)
        caches, keys_and_values = jax.jit(partial(apply, method="start_decoding"))(memory)
        leaves = jax.tree.leaves(caches)
        assert {leaf.shape[-3:] for leaf in leaves} == {(2, 0, 8)}
        assert (len(leaves), leaves[0].ndim) == ((6, 4) if scan_unroll is None else (2, 5))

        def grow(leaf: Any) -> Any:
            return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(0, LENGTH * HYPOTHESES), (0, 0)])

        caches = jax.tree.map(grow, caches)
        origins = jnp.broadcast_to(jnp.arange(HYPOTHESES)[:, None], (2, HYPOTHESES, LENGTH))
        step = jax.jit(partial(apply, method="decode_step"))
        for position in range(LENGTH):
            token = jnp.repeat(TARGET[:, position : position + 1], HYPOTHESES, 1)
            logits, caches = step(token, jnp.int32(position), origins, caches, keys_and_values, SOURCE_MASK)
            for hypothesis in range(HYPOTHESES):
                np.testing.assert_allclose(logits[:, hypothesis], whole[:, position], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scan_unroll", [None, 1])
def test_layers_drop_different_elements(scan_unroll):
    """All layers share one module path, so nothing but their number keeps their masks apart."""
    model, variables = unrolled(scan_unroll, dropout=0.5, num_encoder_layers=3)
    _, found = jax.jit(
        partial(
            model.apply,
            method="encode",
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: module.name == "dropout",
        )
    )(variables, Side(SOURCE, SOURCE_MASK), dropout_key(0, 1, jnp.arange(2)))
    (dropped,) = found["intermediates"]["encoder"]["layers"]["feed_forward_norm"]["dropout"]["__call__"]
    kept = np.asarray(dropped) != 0
    assert kept.shape == (3, 2, 7, 16)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 0.35 < (kept[one] == kept[other]).mean() < 0.65


def test_the_program_does_not_grow_with_depth():
    def lines(layers: int, scan_unroll: int | None) -> int:
        changes = {"num_encoder_layers": layers, "num_decoder_layers": layers}
        model, variables = unrolled(scan_unroll, **changes)

        def loss(params: Any) -> Any:
            return model.apply({"params": params}, SOURCE, SOURCE_MASK, TARGET)[0].sum()

        return len(jax.jit(jax.grad(loss)).lower(variables["params"]).as_text().splitlines())

    assert lines(8, 1) == lines(4, 1)
    assert lines(8, None) > lines(4, None)

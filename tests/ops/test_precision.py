"""The precision of every product in the programs for a GPU and a TPU, read in their jaxprs."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxprs_in_params

from transformer import ops, parameters
from transformer.config import ModelConfig, OptimizerConfig, SearchConfig
from transformer.inference.backend import ACCELERATOR
from transformer.inference.decoding import SearchIds, search_program
from transformer.model import Transformer
from transformer.ops.attention_tpu import splash_attention
from transformer.ops.implementation import LONG, select_fused
from transformer.shapes import Batch
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state, train_step

TINY = ModelConfig(vocabulary_size=40, d_model=32, num_heads=2, d_ff=32, num_encoder_layers=1, num_decoder_layers=1)
PRECISIONS = {"float32": lax.Precision.HIGHEST, "tensorfloat32": lax.Precision.HIGH}


def equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def precisions(function: Any, *arguments: Any, default: str = "bfloat16") -> dict[str, set[Any]]:
    """The precisions of all products of a function, also within kernels, by the dtype of their first operand.

    JAX's default is the lowest, so that a product which names no precision is not taken for an exact one.
    """
    with jax.default_matmul_precision(default):
        jaxpr = jax.make_jaxpr(function)(*arguments)
    found: dict[str, set[Any]] = {}
    for equation in equations(jaxpr.jaxpr):
        if equation.primitive.name == "dot_general":
            own = equation.params["precision"]
            found.setdefault(str(equation.invars[0].aval.dtype), set()).update(own if own else [None])
    return found


def step_precisions(dtype: str, backend: Any, **settings: Any) -> dict[str, set[Any]]:
    config = ModelConfig(**vars(TINY) | settings)
    model = Transformer(config, jnp.dtype(dtype), backend)
    optimizer = make_optimizer(OptimizerConfig(), config.d_model, 10)
    state = jax.eval_shape(partial(create_state, model, optimizer, 0))
    tokens, mask = np.ones((2, 8), np.int32), np.ones((2, 8), bool)
    batch = Batch(tokens, mask, tokens, tokens, mask, np.arange(2, dtype=np.int32))
    step = partial(train_step, model=model, optimizer=optimizer, label_smoothing=0.1, seed=0)
    return precisions(step, state, batch)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("settings", [{}, {"implementation": "plain"}, {"attention": "fused"}], ids=str)
def test_a_float32_step_has_the_precision_of_the_config(precision, settings):
    found = step_precisions("float32", "gpu", matmul_precision=precision, **settings)
    assert found == {"float32": {PRECISIONS[precision]}}


def test_precisions_of_a_search():
    model = Transformer(TINY, backend="gpu")
    params = jax.eval_shape(lambda: parameters.draw(model, 0))
    ids, backend = SearchIds(0, 1, 2), ACCELERATOR

    def search(params, *arrays):
        return search_program(((model, params),), SearchConfig(), ids, backend)(*arrays, max_length=8)

    rows = np.ones(2, np.int32)
    found = precisions(search, params, np.ones((2, 8), np.int32), np.ones((2, 8), bool), 8 * rows, rows, np.int32(0))
    assert found == {"float32": {lax.Precision.HIGHEST}}


@pytest.mark.parametrize(("backend", "attention"), [("gpu", "plain"), ("gpu", "fused"), ("tpu", "fused")])
def test_products_of_bfloat16_keep_the_default(backend, attention):
    """Splash attention also multiplies attention weights in float32, as the default says: in one pass."""
    found = step_precisions("bfloat16", backend, attention=attention)
    assert set(found) == ({"bfloat16", "float32"} if backend == "tpu" else {"bfloat16"})
    assert set().union(*found.values()) == {lax.Precision.DEFAULT}


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_long_rows(backend):
    attention = select_fused("auto", backend, LONG + 1, 512, "tensorfloat32")
    assert attention is not None
    x, segments = jnp.ones((1, 4, 2, 8)), jnp.ones((1, 4), jnp.int32)
    found = precisions(jax.grad(lambda x: attention(x, x, x, segments, segments, True).sum()), x)
    assert found == {"float32": {lax.Precision.HIGH}}


@pytest.mark.parametrize("default", ["bfloat16", "highest"])
def test_splash_attention_does_not_depend_on_the_default(default):
    """Mosaic refuses `highest` for bfloat16, and every precision of float32 but `highest` is too inexact."""
    segments = jnp.ones((1, 4), jnp.int32)

    def total(x):
        return splash_attention(x, x, x, segments, segments, True).sum()

    for dtype, expected in (("float32", lax.Precision.HIGHEST), ("bfloat16", lax.Precision.DEFAULT)):
        x = jnp.ones((1, 4, 2, 8), dtype)
        assert set().union(*precisions(jax.grad(total), x, default=default).values()) == {expected}


def test_equations_called_alone_are_exact():
    x, table, mask = jnp.ones((4, 8)), jnp.ones((16, 8)), jnp.ones(4, bool)

    def total(x, table):
        y, _ = ops.scaled_dot_product_attention(ops.linear(x, table[:8]), x, x)
        y = ops.feed_forward(y, table.T, jnp.ones(16), table, jnp.ones(8))
        return ops.cross_entropy(y, table, None, jnp.arange(4), mask)[0] + ops.output_logits(y, table).sum()

    assert precisions(jax.grad(total, (0, 1)), x, table) == {"float32": {lax.Precision.HIGHEST}}
    assert precisions(jax.hessian(total), x, table) == {"float32": {lax.Precision.HIGHEST}}

"""The implementations against each other: which one a model has changes its speed and no result."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.errors import InputError
from transformer.ops.attention_gpu import flash_attention
from transformer.ops.attention_tpu import splash_attention
from transformer.ops.blockwise import blockwise_attention
from transformer.ops.dropout import DropoutKey
from transformer.ops.implementation import ACCELERATOR, CPU, PLAIN, Implementation, select, select_fused

pytestmark = pytest.mark.usefixtures("quick_compilation")

TOLERANCE = 1e-6  # relative to the largest element: sums of up to 40 products in float32, in another order


def test_select():
    for backend in ("cpu", "gpu", "tpu"):
        assert select("plain", backend) is PLAIN
    assert select("auto", "cpu") is CPU
    assert select("auto", "gpu") is select("auto", "tpu") is ACCELERATOR
    with pytest.raises(InputError, match=r"must be one of auto, plain, but is 'plane'\. Did you mean plain\?"):
        inspect.unwrap(select)("plane", "cpu")


class Card(NamedTuple):
    compute_capability: str
    platform: str = "gpu"


def function_of(attention: Any) -> Any:
    """The attention without the precision that is bound to it."""
    return getattr(attention, "func", attention)


def test_select_fused(monkeypatch):
    chosen = {
        (name, backend, keys, size): function_of(select_fused(name, backend, keys, size))
        for name in ("auto", "plain", "fused")
        for backend in ("cpu", "gpu", "tpu")
        for keys in (2048, 2049)
        for size in (128, 256)
    }
    for (name, backend, keys, size), attention in chosen.items():
        long, kernel = blockwise_attention if keys > 2048 else None, size == 128 and backend == "gpu"
        match name:
            case "plain":
                assert attention is None
            case "auto":
                assert attention is (flash_attention if kernel else long)
            case "fused":
                kernels = {"gpu": flash_attention if kernel else blockwise_attention, "tpu": splash_attention}
                assert attention is kernels.get(backend, blockwise_attention)
    for capability, expected in (("9.0", flash_attention), ("8.0", None), ("gfx942", None)):
        monkeypatch.setattr(jax, "devices", lambda found=capability: [Card(found)])
        assert function_of(select_fused("auto", "gpu", 64, 64)) is expected


def attend(ops: Implementation, query: Any, key: Any, value: Any, mask: Any, rows: Any) -> Any:
    dropout = partial(ops.dropout, rate=0.3, key=DropoutKey(jnp.uint32(7), rows), site=1)
    return ops.attention(query, key, value, mask, dropout=dropout, return_weights=True)


def drop(ops: Implementation, x: Any, rows: Any) -> Any:
    return ops.dropout(x, 0.3, DropoutKey(jnp.uint32(7), rows), 1)


def split_and_merge(ops: Implementation, x: Any) -> Any:
    heads = ops.split_heads(x, 4)
    return heads, ops.merge_heads(jnp.sin(heads))


MAPPED, ROWS = 3, 2
# A function of (ops, *arrays), the shapes of its float arguments, and of each other argument what it is and its shape;
# all of them below a mapped axis.
CASES: dict[str, tuple[Callable, list[tuple[int, ...]], list[tuple[str, tuple[int, ...]]]]] = {
    "linear": (lambda ops, *arrays: ops.linear(*arrays), [(ROWS, 9, 32), (32, 24), (24,)], []),
    "relu": (lambda ops, x: ops.relu(x), [(ROWS, 9, 32)], []),
    "output_logits": (lambda ops, *arrays: ops.output_logits(*arrays), [(ROWS, 9, 32), (40, 32), (40,)], []),
    "attention": (
        attend,
        [(ROWS, 4, 9, 16), (ROWS, 4, 20, 16), (ROWS, 4, 20, 8)],
        [("mask", (ROWS, 1, 9, 20)), ("rows", (ROWS,))],
    ),
    "attention of one query": (
        attend,
        [(ROWS, 4, 1, 16), (ROWS, 4, 20, 16), (ROWS, 4, 20, 16)],
        [("mask", (ROWS, 1, 1, 20)), ("rows", (ROWS,))],
    ),
    "heads": (split_and_merge, [(ROWS, 9, 32)], []),
    "layer_norm": (lambda ops, *arrays: ops.layer_norm(*arrays, 1e-5), [(ROWS, 9, 32), (32,), (32,)], []),
    "dropout": (drop, [(ROWS, 9, 32)], [("rows", (ROWS,))]),
    "cross_entropy": (
        lambda ops, *arrays: ops.cross_entropy(*arrays, label_smoothing=0.1),
        [(600, 32), (40, 32), (40,)],  # two chunks
        [("targets", (600,)), ("mask", (600,))],
    ),
}


def test_every_function_is_compared():
    compared = {"split_heads", "merge_heads", *CASES} - {"heads", "attention of one query"}
    assert compared == set(Implementation._fields)


def draw(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> jax.Array:
    match kind:
        case "mask":
            return jnp.asarray(rng.random((MAPPED, *shape)) < 0.7)
        case "targets":
            return jnp.asarray(rng.integers(40, size=(MAPPED, *shape)))
        case _:
            return jnp.asarray(rng.integers(1000, size=(MAPPED, *shape)))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_agree_also_under_vmap(name):
    function, shapes, others = CASES[name]
    rng = np.random.default_rng(0)
    floats = [jnp.asarray(rng.normal(size=(MAPPED, *shape)), jnp.float32) for shape in shapes]
    rest = [draw(rng, kind, shape) for kind, shape in others]

    def value_and_gradients(ops, form, floats, rest):
        value, pull = jax.vjp(lambda *floats: function(ops, *floats, *rest), *floats)
        return value, pull(form)

    value = jax.eval_shape(partial(function, PLAIN), *(array[0] for array in (*floats, *rest)))
    form = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=(MAPPED, *leaf.shape)), leaf.dtype), value)
    single = jax.jit(partial(value_and_gradients, PLAIN))
    parts = [single(*jax.tree.map(lambda leaf, i=i: leaf[i], (form, floats, rest))) for i in range(MAPPED)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    for ops in (PLAIN, CPU, ACCELERATOR):
        found = jax.jit(jax.vmap(partial(value_and_gradients, ops)))(form, floats, rest)
        for actual, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert actual.dtype == wanted.dtype
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(actual / scale, wanted / scale, rtol=0, atol=TOLERANCE)

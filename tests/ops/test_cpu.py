"""What XLA's CPU backend needs: the same results, in a form that it runs, and runs fast."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops import cpu
from transformer.ops.implementation import CPU, PLAIN

ROWS = (1, 2, 3, 16)


def test_a_transposed_result_and_a_transposed_gradient(dtype, assert_close):
    """The trap: XLA would give a product the layout of the transpose, and have no code for it in bfloat16."""
    rng = np.random.default_rng(0)

    @jax.jit
    def value_and_gradients(x, kernel, bias, g):
        y, pull = jax.vjp(lambda *arrays: CPU.linear(*arrays).T, x, kernel, bias)
        dx, dkernel, dbias = pull(g)
        return y, dx.T, dkernel.T, dbias, CPU.linear(g.T, kernel.T)

    for rows in ROWS:
        x, g = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((rows, 17), (6, rows)))
        kernel, bias = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((17, 6), (6,)))
        y, dx, dkernel, dbias, transposed = value_and_gradients(x, kernel, bias, g)
        x, kernel, bias, g = (np.asarray(a, np.float64) for a in (x, kernel, bias, g))
        assert_close(y, (x @ kernel + bias).T, dtype)
        assert_close(dx, kernel @ g, dtype)
        assert_close(dkernel, g @ x, dtype)
        assert_close(dbias, g.sum(1), dtype)
        assert_close(transposed, g.T @ kernel.T, dtype)


@pytest.mark.parametrize("length", [3, 4])
def test_a_moved_axis_leaves_the_product_in_bfloat16(length):
    """What `move_axis` is for: XLA would fold the transpose into the product, and convert both sides to float32."""

    def converts(function, *shape):
        program = jax.jit(function).lower(jnp.zeros(shape, jnp.bfloat16)).compile().as_text()
        return f"f32[2,4,{length},8]" in str(program)

    def scores(heads):
        return cpu.dot(heads, heads, (3, 3), batch=2)

    assert converts(lambda x: scores(cpu.move_axis(x, -2, -3)), 2, length, 4, 8) == converts(scores, 2, 4, length, 8)


def test_heads_of_any_size(dtype):
    """Their axis is moved in two halves, which need not be equal."""
    for length, heads in ((6, 4), (3, 5), (1, 3), (5, 1)):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, length, 2 * heads)), dtype)
        split = jax.jit(partial(CPU.split_heads, num_heads=heads))(x)
        np.testing.assert_array_equal(split, PLAIN.split_heads(x, heads))
        np.testing.assert_array_equal(jax.jit(CPU.merge_heads)(split), x)


def test_scores_of_few_queries_and_of_many(dtype, assert_close):
    """A quarter as many queries as keys takes another path."""
    rng = np.random.default_rng(0)
    for few, many in ((1, 4), (2, 9), (3, 8)):
        a, b = (jnp.asarray(rng.normal(size=(2, rows, 5)), dtype) for rows in (few, many))
        scores = jax.jit(cpu.product_transposed)(a, b)
        assert_close(scores, np.asarray(a, np.float64) @ np.asarray(b, np.float64).swapaxes(1, 2), "float32")


@pytest.mark.parametrize(("size", "k"), [(300, 4), (64, 3), (7, 7)])
def test_top_k(size, k):
    """Against `lax.top_k`, with -inf and a row of nothing but -inf."""
    x = np.random.default_rng(0).normal(size=(3, 2, size)).astype(np.float32)
    x[0, 0, ::2], x[1, 1] = -np.inf, -np.inf
    values, indices = jax.jit(partial(cpu.top_k, k=k))(x)
    np.testing.assert_array_equal(values, jax.lax.top_k(x, k)[0])
    assert ((indices >= 0) & (indices < size)).all()
    np.testing.assert_array_equal(np.take_along_axis(x, np.asarray(indices), -1), values)
    assert all(len(set(row)) == k for row in np.asarray(indices).reshape(-1, k))

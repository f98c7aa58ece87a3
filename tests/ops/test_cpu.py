"""What XLA's CPU backend needs: the same results, in a form that it runs, and runs fast."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops import cpu
from transformer.ops.implementation import CPU

ROWS = (1, 2, 3, 16)


@pytest.mark.parametrize("contract", [(2, 1), (2, 2), (1, 1), (1, 2)], ids=str)
def test_dot_over_either_axis_after_a_batch(contract, dtype, assert_close):
    rng = np.random.default_rng(0)
    for length in (1, 8):
        shapes = [[2, 4, 4], [2, 4, 4]]
        for shape, axis in zip(shapes, contract, strict=True):
            shape[axis] = length
        a, b = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
        product = jax.jit(partial(cpu.dot, contract=contract, batch=1))(a, b)
        left = np.moveaxis(np.asarray(a, np.float64), contract[0], 2)
        right = np.moveaxis(np.asarray(b, np.float64), contract[1], 1)
        assert product.dtype == jnp.float32
        assert_close(product, left @ right, "float32")
        assert cpu.dot(a, b, contract, 1, dtype).dtype == dtype


def test_a_transposed_product(dtype, assert_close):
    """The trap itself: XLA would give the product the layout of the transpose, and have no code for it in bfloat16."""
    rng = np.random.default_rng(0)
    for rows in ROWS:
        a, b = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((rows, 17), (17, 6)))
        product = jax.jit(lambda a, b: cpu.dot(a, b, (1, 0)).T)(a, b)
        assert_close(product, (np.asarray(a, np.float64) @ np.asarray(b, np.float64)).T, "float32")


def test_a_transposed_result_and_a_transposed_gradient(dtype, assert_close):
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


@pytest.mark.parametrize(
    ("shape", "source", "destination"),
    [
        ((6, 4), -1, 0),
        ((3, 5), -1, 0),
        ((3, 1), -1, 0),  # half of one is nothing
        ((1, 17), -1, -2),
        ((2, 4, 3, 6), -1, -2),
        ((2, 4, 3, 5), -2, -1),
        ((2, 5, 3), 0, -1),
    ],
    ids=str,
)
def test_move_axis_with_its_gradient(shape, source, destination, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    moved, pull = jax.vjp(jax.jit(lambda x: cpu.move_axis(x, source, destination)), x)
    expected = np.moveaxis(np.asarray(x, np.float32), source, destination)
    np.testing.assert_array_equal(np.asarray(moved, np.float32), expected)
    np.testing.assert_array_equal(pull(moved)[0], x)


@pytest.mark.parametrize("length", [3, 4])
def test_a_moved_axis_leaves_the_product_in_bfloat16(length):
    """What `move_axis` is for: XLA would fold the transpose into the product, and convert both sides to float32."""

    def converts(function, *shape):
        program = jax.jit(function).lower(jnp.zeros(shape, jnp.bfloat16)).compile().as_text()
        return f"f32[2,4,{length},8]" in str(program)

    def scores(heads):
        return cpu.dot(heads, heads, (3, 3), batch=2)

    assert converts(lambda x: scores(cpu.move_axis(x, -2, -3)), 2, length, 4, 8) == converts(scores, 2, 4, length, 8)


@pytest.mark.parametrize(("few", "many"), [(1, 4), (2, 9), (3, 8)], ids=["one", "few", "not few"])
def test_product_of_few_rows_with_many(few, many, dtype, assert_close):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(2, rows, 5)), dtype) for rows in (few, many))
    program = jax.jit(cpu.product_transposed)
    assert_close(program(a, b), np.asarray(a, np.float64) @ np.asarray(b, np.float64).swapaxes(1, 2), "float32")
    # Few rows: it is their product with b that is transposed, not b.
    transposed_product = f"f32[2,{many},{few}] = optimization_barrier"
    assert (transposed_product in str(jax.make_jaxpr(program)(a, b)).replace(":", " ")) == (4 * few <= many)


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

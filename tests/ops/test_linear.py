"""Every class of shapes, forward and backward: XLA's CPU products in bfloat16 fail on some at run time, not before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops.linear import dot, linear, move_axis

LEADING = [(1,), (3,), (16,), (2, 3), (1, 1), (2, 1, 3), ()]
SIZES = [(17, 5), (1, 1), (8, 1), (16, 32)]


def arguments(leading, sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in ((*leading, sizes[0]), sizes, sizes[1:])]


CASES = [(leading, sizes, "bfloat16") for leading in LEADING for sizes in SIZES]
CASES += [(leading, (17, 5), "float32") for leading in LEADING]


@pytest.mark.parametrize(("leading", "sizes", "dtype"), CASES, ids=str)
def test_value_and_gradients_of_every_shape(leading, sizes, dtype, assert_close):
    arrays = arguments(leading, sizes)
    x, kernel, bias = (jnp.asarray(a, kind) for a, kind in zip(arrays, (dtype, "float32", "float32"), strict=True))
    g = jnp.asarray(np.random.default_rng(1).normal(size=(*leading, sizes[1])), dtype)

    @jax.jit
    def value_and_gradients(x, kernel, bias, g):
        y, pull = jax.vjp(linear, x, kernel, bias)
        return y, *pull(g)

    y, dx, dkernel, dbias = value_and_gradients(x, kernel, bias, g)
    assert [a.dtype for a in (y, dx, dkernel, dbias)] == [dtype, dtype, "float32", "float32"]
    x, kernel, bias, g = (np.asarray(a, np.float64) for a in (x, kernel, bias, g))
    rows, upstream = x.reshape(-1, sizes[0]), g.reshape(-1, sizes[1])
    assert_close(y, x @ kernel + bias, dtype)
    assert_close(dx, g @ kernel.T, dtype)
    assert_close(dkernel, rows.T @ upstream, dtype)
    assert_close(dbias, upstream.sum(0), dtype)


@pytest.mark.parametrize("leading", [(1,), (3,), (2, 3)], ids=str)
def test_without_bias(leading, dtype, assert_matches):
    x, kernel, _ = arguments(leading, (5, 4))
    assert_matches(linear, lambda x, kernel: x @ kernel, [x, kernel], dtype, activations=1)


@pytest.mark.parametrize("leading", [(1,), (3,), (2, 5)], ids=str)
def test_mapped_over_inputs_or_kernels(leading, dtype, assert_close):
    """Under vmap, values and gradients equal those one by one."""
    x, kernel, bias = arguments((3, *leading), (17, 5))
    kernels = np.random.default_rng(2).normal(size=(3, 17, 5))
    x = jnp.asarray(x, dtype)
    kernel, bias, kernels = (jnp.asarray(a, "float32") for a in (kernel, bias, kernels))
    g = jnp.asarray(np.random.default_rng(1).normal(size=(3, *leading, 5)), dtype)

    def value_and_gradients(x, kernel, g):
        y, pull = jax.vjp(lambda x, kernel: linear(x, kernel, bias), x, kernel)
        return y, *pull(g)

    for given, axis in ((kernel, None), (kernels, 0)):
        mapped = jax.jit(jax.vmap(value_and_gradients, in_axes=(0, axis, 0)))(x, given, g)
        single = jax.jit(value_and_gradients)
        for i in range(3):
            for all_parts, part in zip(mapped, single(x[i], given if axis is None else given[i], g[i]), strict=True):
                assert_close(all_parts[i], part, dtype)


@pytest.mark.parametrize("rows", [1, 2, 3, 16])
def test_a_transposed_result_and_a_transposed_gradient(rows, dtype, assert_close):
    """The trap itself: XLA would like to give the product the layout of the transpose behind it."""
    x, kernel, bias = arguments((rows,), (17, 6))
    x, kernel, bias = jnp.asarray(x, dtype), jnp.asarray(kernel, "float32"), jnp.asarray(bias, "float32")
    g = jnp.asarray(np.random.default_rng(1).normal(size=(6, rows)), dtype)

    @jax.jit
    def value_and_gradients(x, kernel, bias, g):
        y, pull = jax.vjp(lambda *arrays: linear(*arrays).T, x, kernel, bias)
        return y, *pull(g)

    y, dx, dkernel, dbias = value_and_gradients(x, kernel, bias, g)
    x, kernel, bias, g = (np.asarray(a, np.float64) for a in (x, kernel, bias, g))
    assert_close(y, (x @ kernel + bias).T, dtype)
    assert_close(dx, g.T @ kernel.T, dtype)
    assert_close(dkernel, x.T @ g.T, dtype)
    assert_close(dbias, g.sum(1), dtype)
    transposed = jax.jit(lambda kernel, x: linear(x.T, kernel))(kernel.astype("float32"), jnp.asarray(x.T, dtype))
    assert_close(transposed, x @ kernel, dtype)


def test_kernel_gradients_are_float32_sums(dtype):
    """4,096 ones: a bfloat16 sum would stop growing at 256."""
    x, kernel, bias = jnp.ones((4096, 2), dtype), jnp.ones((2, 3)), jnp.zeros(3)
    _, pull = jax.vjp(linear, x, kernel, bias)
    _, dkernel, dbias = jax.jit(pull)(jnp.ones((4096, 3), dtype))
    np.testing.assert_array_equal(dkernel, np.full((2, 3), 4096.0))
    np.testing.assert_array_equal(dbias, np.full(3, 4096.0))


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (17, 1), (3, 2), (6, 4), (2, 3, 5), (2, 4, 3, 6)], ids=str)
@pytest.mark.parametrize("ends", [(-1, 0), (-1, -2), (-2, -1), (0, -1)], ids=str)
def test_move_axis_with_its_gradient(shape, ends, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    moved, pull = jax.vjp(jax.jit(lambda x: move_axis(x, *ends)), x)
    np.testing.assert_array_equal(np.asarray(moved, np.float32), np.moveaxis(np.asarray(x, np.float32), *ends))
    np.testing.assert_array_equal(pull(moved)[0], x)


@pytest.mark.parametrize("length", [3, 4])
def test_a_moved_axis_leaves_the_product_in_bfloat16(length):
    """What `move_axis` is for: XLA would fold the transpose into the product, and convert both sides to float32."""

    def converts(function, *shape):
        program = jax.jit(function).lower(jnp.zeros(shape, jnp.bfloat16)).compile().as_text()
        return f"f32[2,4,{length},8]" in str(program)

    def scores(heads):
        return dot(heads, heads, (3, 3), batch=2)

    assert converts(lambda x: scores(move_axis(x, -2, -3)), 2, length, 4, 8) == converts(scores, 2, 4, length, 8)


@pytest.mark.parametrize("contract", [(2, 1), (2, 2), (1, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("length", [1, 3, 8])
def test_dot_over_either_axis_behind_a_batch(length, contract, dtype, assert_close):
    rng = np.random.default_rng(0)
    shapes = [[2, 4, 4], [2, 4, 4]]
    for shape, axis in zip(shapes, contract, strict=True):
        shape[axis] = length
    a, b = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    product = jax.jit(lambda a, b: dot(a, b, contract, batch=1))(a, b)
    left = np.moveaxis(np.asarray(a, np.float64), contract[0], 2)
    right = np.moveaxis(np.asarray(b, np.float64), contract[1], 1)
    assert product.dtype == jnp.float32
    assert_close(product, left @ right, "float32")

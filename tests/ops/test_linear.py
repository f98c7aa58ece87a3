"""Every class of shapes, forward and backward: XLA's CPU products in bfloat16 fail on some at run time, not before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Leading axes of x, and the shape of the kernel.
SHAPES = [
    ((2, 1, 3), (17, 5)),
    ((), (17, 5)),
    ((1,), (17, 5)),
    ((3,), (1, 1)),
    ((16,), (16, 32)),
    ((2, 3), (8, 1)),
]


def arguments(leading, sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in ((*leading, sizes[0]), sizes, sizes[1:])]


def test_value_and_gradients_of_every_shape(ops, dtype, assert_close):
    @jax.jit
    def value_and_gradients(x, kernel, bias, g):
        y, pull = jax.vjp(ops.linear, x, kernel, bias)
        return y, *pull(g)

    for leading, sizes in SHAPES if dtype == "bfloat16" else SHAPES[:2]:
        arrays = arguments(leading, sizes)
        x, kernel, bias = (jnp.asarray(a, kind) for a, kind in zip(arrays, (dtype, "float32", "float32"), strict=True))
        g = jnp.asarray(np.random.default_rng(1).normal(size=(*leading, sizes[1])), dtype)
        y, dx, dkernel, dbias = value_and_gradients(x, kernel, bias, g)
        assert [a.dtype for a in (y, dx, dkernel, dbias)] == [dtype, dtype, "float32", "float32"]
        x, kernel, bias, g = (np.asarray(a, np.float64) for a in (x, kernel, bias, g))
        rows, upstream = x.reshape(-1, sizes[0]), g.reshape(-1, sizes[1])
        assert_close(y, x @ kernel + bias, dtype)
        assert_close(dx, g @ kernel.T, dtype)
        assert_close(dkernel, rows.T @ upstream, dtype)
        assert_close(dbias, upstream.sum(0), dtype)


def test_without_bias(ops, dtype, assert_matches):
    x, kernel, _ = arguments((2, 3), (5, 4))
    assert_matches(ops.linear, lambda x, kernel: x @ kernel, [x, kernel], dtype, activations=1)


def test_mapped_in_bfloat16_over_inputs_or_kernels(ops, assert_close):
    """Under vmap, values and gradients equal those one by one. In float32: test_implementation.py."""
    x, kernel, bias = arguments((3, 2, 5), (17, 5))
    kernels = np.random.default_rng(2).normal(size=(3, 17, 5))
    x = jnp.asarray(x, jnp.bfloat16)
    kernel, bias, kernels = (jnp.asarray(a, "float32") for a in (kernel, bias, kernels))
    g = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 5, 5)), jnp.bfloat16)

    def value_and_gradients(x, kernel, g):
        y, pull = jax.vjp(lambda x, kernel: ops.linear(x, kernel, bias), x, kernel)
        return y, *pull(g)

    single = jax.jit(value_and_gradients)
    for given, axis in ((kernel, None), (kernels, 0)):
        mapped = jax.jit(jax.vmap(value_and_gradients, in_axes=(0, axis, 0)))(x, given, g)
        for i in range(3):
            for all_parts, part in zip(mapped, single(x[i], given if axis is None else given[i], g[i]), strict=True):
                assert_close(all_parts[i], part, "bfloat16")


def test_kernel_gradients_are_float32_sums(ops):
    """4,099 ones: a bfloat16 sum would stop growing at 256, and a float32 sum rounded to bfloat16 would be 4,096."""
    x, kernel, bias = jnp.ones((4099, 2), jnp.bfloat16), jnp.ones((2, 3)), jnp.zeros(3)
    _, pull = jax.vjp(ops.linear, x, kernel, bias)
    _, dkernel, dbias = jax.jit(pull)(jnp.ones((4099, 3), jnp.bfloat16))
    np.testing.assert_array_equal(dkernel, np.full((2, 3), 4099.0))
    np.testing.assert_array_equal(dbias, np.full(3, 4099.0))


@pytest.mark.parametrize(
    ("leading", "dtype"), [((2, 3), "float32"), ((2, 3), "bfloat16"), ((1,), "bfloat16"), ((), "bfloat16")], ids=str
)
def test_output_logits_are_float32(ops, leading, dtype, assert_matches):
    rng = np.random.default_rng(0)
    hidden, embedding, bias = (rng.normal(size=shape) for shape in ((*leading, 5), (7, 5), (7,)))
    assert_matches(
        ops.output_logits,
        lambda hidden, embedding, bias: hidden @ embedding.T + bias,
        [hidden, embedding, bias],
        dtype,
        activations=1,
        result="float32",
    )

"""The one way in which numeric functions are tested: against float64 NumPy, values and gradients, jitted."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2}

# `jax.jit` for entire models that run only a few times: LLVM optimizes nothing.
_QUICK = {"xla_backend_optimization_level": 0}
# `jax.jit` as users have it, where `conftest.py` has selected quicker emitters.
_DEFAULT = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ.get("XLA_FLAGS", "") else {}
_on_cpu = jax.default_backend() == "cpu"
quick_jit: Any = partial(jax.jit, compiler_options=_QUICK) if _on_cpu else jax.jit
default_jit: Any = partial(jax.jit, compiler_options=_DEFAULT) if _on_cpu else jax.jit


def assert_close(actual: Any, expected: Any, dtype: str) -> None:
    """Equality up to the rounding of a type, relative to the largest element."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    scale = np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=TOLERANCE[dtype])


def assert_matches(
    function: Callable,
    reference: Callable,
    arrays: list,
    dtype: str,
    activations: int,
    result: str | None = None,
) -> None:
    """Compares a function with its float64 reference, in value and in the gradient with respect to every argument.

    The first `activations` arguments are given in `dtype`, the others (parameters) in float32. The value's type is
    `result`, by default `dtype`. The gradient is that of a random linear form of the value; the reference's is taken by
    central differences.
    """
    types = [dtype if i < activations else "float32" for i in range(len(arrays))]
    given = [jnp.asarray(array, kind) for array, kind in zip(arrays, types, strict=True)]
    exact = [np.asarray(array, np.float64) for array in given]  # what the rounding of the inputs left

    expected = reference(*exact)
    form = jnp.asarray(np.random.default_rng(1).normal(size=expected.shape), result or dtype)

    @default_jit
    def value_and_gradients(form, *arrays):
        value, pull = jax.vjp(function, *arrays)
        return value, pull(form)

    value, gradients = value_and_gradients(form, *given)
    assert value.dtype == (result or dtype)
    assert_close(value, expected, dtype)
    form = np.asarray(form, np.float64)
    for i, gradient in enumerate(gradients):
        assert gradient.dtype == types[i]
        slope = numerical_gradient(
            lambda array, i=i: np.sum(form * reference(*exact[:i], array, *exact[i + 1 :])), exact[i]
        )
        assert_close(gradient, slope, dtype)


def numerical_gradient(function: Callable, array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        ahead, behind = array.copy(), array.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient

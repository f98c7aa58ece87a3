"""The one way in which numeric functions are tested: against float64 NumPy, values and gradients, jitted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops.implementation import ACCELERATOR, CPU, PLAIN, Implementation

IMPLEMENTATIONS = {"plain": PLAIN, "cpu": CPU, "accelerator": ACCELERATOR}
TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2}


@pytest.fixture(params=list(IMPLEMENTATIONS))
def ops(request: pytest.FixtureRequest) -> Implementation:
    """Each set of functions that a model may call for the equations; all of them run on a CPU."""
    return IMPLEMENTATIONS[request.param]


@pytest.fixture(params=["cpu", "accelerator"])
def written_out(request: pytest.FixtureRequest) -> Implementation:
    """Those whose backward passes are written out."""
    return IMPLEMENTATIONS[request.param]


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def assert_close() -> Callable:
    """Equality up to the rounding of a type, relative to the largest element."""

    def check(actual, expected, dtype: str) -> None:
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        assert actual.shape == expected.shape
        scale = np.abs(expected).max(initial=1e-3)
        np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=TOLERANCE[dtype])

    return check


@pytest.fixture
def assert_matches(assert_close: Callable) -> Callable:
    """Compares a function with its float64 reference, in value and in the gradient with respect to every argument.

    The first `activations` arguments are given in `dtype`, the others (parameters) in float32. The value's type is
    `result`, by default `dtype`. The gradient is that of a random linear form of the value; the reference's is taken by
    central differences.
    """

    def check(
        function: Callable,
        reference: Callable,
        arrays: list,
        dtype: str,
        activations: int,
        result: str | None = None,
    ) -> None:
        types = [dtype if i < activations else "float32" for i in range(len(arrays))]
        given = [jnp.asarray(array, kind) for array, kind in zip(arrays, types, strict=True)]
        exact = [np.asarray(array, np.float64) for array in given]  # what the rounding of the inputs left

        expected = reference(*exact)
        form = jnp.asarray(np.random.default_rng(1).normal(size=expected.shape), result or dtype)

        @jax.jit
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

    return check


def numerical_gradient(function: Callable, array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        ahead, behind = array.copy(), array.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient

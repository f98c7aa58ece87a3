"""The implementations and types that numeric functions are tested with, and how (`numerics.py`)."""

from collections.abc import Callable

import numerics
import pytest

from transformer.ops.implementation import ACCELERATOR, CPU, PLAIN, Implementation

IMPLEMENTATIONS = {"plain": PLAIN, "cpu": CPU, "accelerator": ACCELERATOR}


@pytest.fixture(params=list(IMPLEMENTATIONS))
def ops(request: pytest.FixtureRequest) -> Implementation:
    """Each set of functions that a model may call for the equations; all of them run on a CPU."""
    return IMPLEMENTATIONS[request.param]


@pytest.fixture(params=["cpu", "accelerator"])
def written_out(request: pytest.FixtureRequest) -> Implementation:
    """The implementations whose backward passes are written out."""
    return IMPLEMENTATIONS[request.param]


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def assert_close() -> Callable:
    return numerics.assert_close


@pytest.fixture
def assert_matches() -> Callable:
    return numerics.assert_matches

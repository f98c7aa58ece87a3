"""Tests neither read nor write the home directory, and never ask the network: settled before jax is imported."""

import os
import tempfile

import pytest

_home = tempfile.TemporaryDirectory(prefix="transformer-tests-")


def pytest_configure() -> None:
    os.environ |= {
        "HOME": _home.name,
        "XDG_CACHE_HOME": f"{_home.name}/cache",
        "HF_HOME": f"{_home.name}/huggingface",
        "HF_HUB_OFFLINE": "1",
        # What one test has compiled the next one need not; subprocesses share it.
        "JAX_COMPILATION_CACHE_DIR": f"{_home.name}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process waits at the end for one that has begun late."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_unconfigure() -> None:
    _home.cleanup()

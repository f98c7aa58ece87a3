"""Benchmarks are scripts beside the package: they run in processes of their own, or their modules are imported."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(scope="session")
def benchmark() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script with its options."""

    def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run

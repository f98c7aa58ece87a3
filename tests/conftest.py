"""Tests neither read nor write the home directory, and never ask the network: settled before jax is imported."""

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

# XLA's older emitters for fusions on CPUs, which jaxlib 0.11 no longer has, compute the same, in half of the time to
# compile. `numerics.py` compares functions with their references, and `test_readme.py` trains the quickstart, with the
# emitters that users get.
QUICK_EMITTERS = ["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []

_home = tempfile.TemporaryDirectory(prefix="transformer-tests-")
# Here, not in a hook: the conftest.py of a folder that pytest is called with imports jax before the first hook runs.
os.environ |= {
    "HOME": _home.name,
    "XDG_CACHE_HOME": f"{_home.name}/cache",
    "HF_HOME": f"{_home.name}/huggingface",
    "HF_HUB_OFFLINE": "1",
    # What one test has compiled the next one need not; subprocesses share it.
    "JAX_COMPILATION_CACHE_DIR": f"{_home.name}/jax",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "XLA_FLAGS": " ".join(dict.fromkeys([*os.environ.get("XLA_FLAGS", "").split(), *QUICK_EMITTERS])),
    # References in JAX are as exact as what they are compared with, also on a GPU or a TPU.
    "JAX_DEFAULT_MATMUL_PRECISION": "float32",
}


def pytest_configure() -> None:
    # Each of xdist's processes, and what it starts, has cores of its own: XLA's threads would wait busily otherwise.
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores, number = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        if number <= len(cores):
            # A process that takes the place of one that ended has a number beyond theirs.
            os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) % number :: number])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs files with slow tests first and the short tests of data last, so that all processes end at the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent.name == "data"))


def pytest_unconfigure() -> None:
    _home.cleanup()


@pytest.fixture(scope="module", autouse=True)
def no_programs_are_kept() -> Iterator[None]:
    """Forgets the programs that a file of tests has compiled, once this process has taken more than 2 GiB."""
    yield
    is_large = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 2 * 2**20
    if is_large and (jax := sys.modules.get("jax")) is not None:
        jax.clear_caches()


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For tests of what programs do, where neither their speed nor the last digit counts: half the time to compile."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def run_notebook() -> Callable[..., None]:
    """Runs a notebook from its first cell to its last in a folder, where it finds nothing wrong to say.

    Further arguments are environment variables.
    """

    def run(file: Path, folder: Path, **variables: str) -> None:
        import jupytext
        from nbclient import NotebookClient

        places = {name: str(folder) for name in ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")}
        client = NotebookClient(jupytext.read(file), timeout=600, resources={"metadata": {"path": str(folder)}})
        notebook = client.execute(env=os.environ | places | variables)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert any(output.output_type != "stream" or output.text.strip() for output in outputs)
        assert not [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]

    return run

"""One small run for all tests of commands, which leave it unchanged or work on a copy."""

import shutil
from pathlib import Path

import pytest
from command_line import Result, call, write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def command(corpus) -> list[str]:
    return [
        *("train", "--config", f"{corpus}/tiny.py", "--training.validation-bleu"),
        *("--data.train", f"{corpus}/train.en.gz", f"{corpus}/train.de.gz"),
        *("--data.validation", f"{corpus}/val.en", f"{corpus}/val.de.gz"),
        *("--data.test", f"{corpus}/test.en", f"{corpus}/test.de"),
    ]


@pytest.fixture(scope="session")
def trained(corpus, command) -> Result:
    """The result of training. The run is in `corpus / "run"`."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)  # as `quick_compilation` does for a module
    result = call(*command, "--run-dir", f"{corpus}/run")
    jax.config.update("jax_disable_most_optimizations", before)
    return result


@pytest.fixture
def run(corpus, trained, tmp_path) -> str:
    """A copy of the run, for commands that write into it."""
    return str(shutil.copytree(corpus / "run", tmp_path / "run"))

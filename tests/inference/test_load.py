"""The compilation cache when a run is loaded."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import transformer
from transformer.checkpoint import Checkpoints
from transformer.run_dir import open_run


class State(NamedTuple):
    params: Any
    step: Any


@pytest.fixture
def save(random_translator, tmp_path):
    """Makes a run of one checkpoint, trained with or without the compilation cache."""

    def make(compilation_cache: bool) -> Path:
        config = dataclasses.replace(random_translator.config, compilation_cache=compilation_cache)
        run_dir, tokenizer = open_run(tmp_path / "run", config), random_translator.tokenizer
        tokenizer.save(run_dir / "tokenizer.json")
        with Checkpoints(run_dir, 1, tokenizer.fingerprint) as checkpoints:
            checkpoints.save(1, State(random_translator.params, 1), {})
        return run_dir

    return make


def test_a_second_process_translates_from_the_cache(save, tmp_path):
    program = (
        "import sys, transformer, jax.numpy as jnp\n"
        "from transformer.compilation import Compilations\n"
        "jnp.ones(3) + 1  # in a notebook, JAX may have compiled something before\n"
        "with Compilations(lambda _: None) as counted:\n"
        "    print(transformer.load(sys.argv[1]).translate('seven men'))\n"
        "print(len(counted.compiled), len(counted.cached))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-c", program, str(save(True))]

    def translate() -> tuple[str, int, int]:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        translation, counts = done.stdout.splitlines()
        compiled, cached = map(int, counts.split())
        return translation, compiled, cached

    translation, compiled, cached = translate()
    assert compiled >= 1
    assert cached == 0
    assert [*(tmp_path / "cache" / "transformer-jax").iterdir()]
    assert translate() == (translation, 0, compiled)


@pytest.mark.parametrize("used", [True, False])
def test_loading_uses_the_cache_if_the_run_did(save, monkeypatch, used):
    called = []
    monkeypatch.setattr("transformer.inference.translator.use_compilation_cache", lambda: called.append(True))
    assert transformer.load(save(used)).config.compilation_cache == used
    assert called == [True] * used

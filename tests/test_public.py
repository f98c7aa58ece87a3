"""`import transformer`: what it offers, and what it does not do on import."""

import subprocess
import sys

import pytest

import transformer


def test_every_public_name_is_there():
    for name in transformer.__all__:
        assert getattr(transformer, name) is not None
    assert dir(transformer) == transformer.__all__
    from transformer.model import Transformer
    from transformer.run import load

    assert (transformer.load, transformer.Transformer) == (load, Transformer)
    for name in transformer.ops.__all__:
        assert callable(getattr(transformer.ops, name))
    with pytest.raises(AttributeError, match="no attribute 'trainsformer'"):
        transformer.trainsformer  # noqa: B018


def test_import_starts_nothing():
    program = "import sys, transformer; print(sorted({'jax', 'flax', 'orbax', 'datasets', 'numpy'} & {*sys.modules}))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"

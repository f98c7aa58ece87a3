import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from transformer import parameters
from transformer.config import ModelConfig, ParallelConfig
from transformer.errors import InputError
from transformer.model import Transformer
from transformer.shapes import Batch
from transformer.training.arrangement import Arrangement, arrange, mesh_sizes, require_divisible
from transformer.training.parallel import MeshStrategy, PmapStrategy, choose, split
from transformer.training.sharding import rules_of, spec

SCRIPTS = ("tests/training/on_eight_devices.py", "tests/training/on_a_mesh.py")
MODELS = {
    "base": {},
    "pre-norm": {"norm_position": "pre", "norm": "rms", "positions": "learned", "attention_bias": True},
    "batch norm": {"norm": "batch", "final_logits_bias": True, "shared_embeddings": "none"},
    "two vocabularies": {"shared_embeddings": "target", "target_vocabulary_size": 32_000},
}


def test_on_eight_devices():
    """Runs two files in a process of its own, because JAX fixes the number of devices when it starts."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    result = subprocess.run(
        # Without the options of pyproject.toml: no further processes, and no types of arrays, which other tests check.
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *SCRIPTS],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_rows_are_split_in_turn(make_batch, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    batch = make_batch(0, rows=12, S=5, T=4, empty_rows=3)
    rows = split(batch, 3).row
    assert rows.tolist() == [[[0, 6], [1, 7], [2, 8]], [[3, 9], [4, 10], [5, 11]]]
    assert split(batch).row.tolist() == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
    for dealt in (split(batch, 3), split(batch)):
        for all_rows, parts in zip(jax.tree.leaves(batch), jax.tree.leaves(dealt), strict=True):
            assert parts.dtype == all_rows.dtype
            np.testing.assert_array_equal(parts, all_rows[dealt.row])
    assert isinstance(split(batch), Batch)


@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_each_parameter_matches_one_rule(fields):
    """And with the axes of a mesh, each matrix is sharded along both, and divides into shards."""
    config = ModelConfig(**fields)
    require_divisible(config, {"fsdp": 8, "tensor": 4})
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters.shapes(Transformer(config))):
        (axes,) = rules_of(path)
        own = leaf.shape[leaf.ndim - len(axes) :]
        is_stacked = any(entry.key == "layers" for entry in path)
        assert leaf.ndim - is_stacked == (len(axes) or 1), path
        assert len(spec(path)) in (0, leaf.ndim)
        assert not any(size % {"fsdp": 8, "tensor": 4, None: 1}[axis] for size, axis in zip(own, axes, strict=True))
        assert leaf.ndim - is_stacked == 1 or {"fsdp"} <= {*axes} <= {"fsdp", "tensor", None}


def test_sizes_of_a_mesh():
    assert mesh_sizes(-1, 2, 2, 8) == (2, 2, 2)
    assert mesh_sizes(1, -1, 4, 8) == (1, 2, 4)
    assert mesh_sizes(2, 2, 2, 8) == (2, 2, 2)
    for sizes, devices in (((-1, 3, 1), 8), ((2, 2, 1), 8), ((-1, 16, 1), 8)):
        with pytest.raises(InputError, match=rf"cannot have {devices} devices"):
            mesh_sizes(*sizes, devices)


@pytest.mark.parametrize(
    ("sizes", "field"),
    [
        ({"fsdp": 3, "tensor": 1}, "d-model"),
        ({"fsdp": 1, "tensor": 3}, "num-heads"),
        ({"fsdp": 1, "tensor": 16}, "num-heads"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_refused(sizes, field):
    with pytest.raises(InputError, match=rf"must divide --model\.{field}, but"):
        require_divisible(ModelConfig(), sizes)
    with pytest.raises(InputError, match=r"--model\.vocabulary-size, but 37,001"):
        require_divisible(ModelConfig(vocabulary_size=37_001), {"fsdp": 1, "tensor": 2})


def test_an_arrangement_has_a_strategy_sizes_and_parts_of_a_batch():
    model = ModelConfig()
    replicated, sharded = arrange(ParallelConfig(), model, 8), arrange(ParallelConfig(fsdp=2, tensor=2), model, 8)
    assert (replicated, replicated.num_shards, str(replicated)) == (Arrangement("pmap", 8, 1, 1), 8, "pmap")
    assert (sharded, sharded.num_shards) == (Arrangement("mesh", 2, 2, 2), 4)
    assert str(sharded) == "mesh data=2 fsdp=2 tensor=2"
    with pytest.raises(InputError, match=r"--parallel\.fsdp must divide --model\.d-model"):
        arrange(ParallelConfig(fsdp=3), model, 3)


def test_the_strategy_is_chosen_by_the_config():
    model = ModelConfig()
    assert isinstance(choose(ParallelConfig(), model), PmapStrategy)
    assert isinstance(choose(ParallelConfig(data=jax.local_device_count()), model), PmapStrategy)
    assert isinstance(choose(ParallelConfig("mesh"), model), MeshStrategy)
    with pytest.raises(InputError, match="cannot have"):
        choose(ParallelConfig(fsdp=64), model)

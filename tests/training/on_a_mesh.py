"""The compiled step of a mesh, and translation on eight devices, in the process of `on_eight_devices.py`."""

import re
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest

from transformer import devices, parameters
from transformer.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    SearchConfig,
    TrainingConfig,
)
from transformer.inference.backend import ACCELERATOR
from transformer.inference.decoding import SearchIds, decode
from transformer.inference.forced_decoding import token_log_probabilities
from transformer.model import Transformer
from transformer.planning.hlo import parse
from transformer.planning.kernels import collectives as counted
from transformer.planning.plan import bytes_per_device
from transformer.planning.program import lower_step, state_shapes
from transformer.training.mesh import MeshStrategy
from transformer.training.optimizer import make_optimizer
from transformer.training.sharding import spec
from transformer.training.step import create_state

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}
GROUPS = {  # of devices that differ only along these axes
    ("data",): "{{0,4},{1,5},{2,6},{3,7}}",
    ("fsdp",): "{{0,2},{1,3},{4,6},{5,7}}",
    ("data", "fsdp"): "{{0,2,4,6},{1,3,5,7}}",
    ("data", "fsdp", "tensor"): "{{0,1,2,3,4,5,6,7}}",
}
COLLECTIVE = re.compile(r" = (.*?) (all-reduce|all-gather|reduce-scatter)(?:-start)?\(.*replica_groups=(\{\{.*?\}\})")
# XLA abbreviates the groups of collectives that its partitioner adds, such as [2,4]<=[8] or mesh['axis_0'=2, ...].
ADDED = re.compile(r" = (.*?) [\w-]+\(.*replica_groups=[^{]")


def sizes_of(shapes: str) -> list[int]:
    """Numbers of elements of arrays, scalars left out."""
    return [int(np.prod([*map(int, dims.split(","))])) for dims in re.findall(r"\[([\d,]+)\]", shapes)]


def collectives(program: str) -> dict[tuple[str, str], Counter]:
    """Numbers of elements of all results, by operation and groups of devices. Scalars are left out."""
    found: dict[tuple[str, str], Counter] = {}
    for shapes, operation, groups in COLLECTIVE.findall(program):
        found.setdefault((operation, groups), Counter()).update(size for size in sizes_of(shapes) if size > 1)
    return found


def test_each_gradient_is_reduced_once():
    """Reduce-scatter and all-gather over `fsdp`, one all-reduce over what is left, and no logits in any of them.

    This is the program of a plan: its state has the shapes and shardings of the one that training creates.
    """
    config = Config(
        data=DataConfig(max_length=32),
        model=ModelConfig(1088, None, 16, 8, 48, 1, 1, max_positions=40, dtype="float32"),
        optimizer=OptimizerConfig(clip_norm=1.0),
        training=TrainingConfig(steps=20, max_skipped_steps=1),
        parallel=ParallelConfig("mesh", **SIZES),
    )
    model, optimizer = Transformer(config.model), make_optimizer(config.optimizer, config.model.d_model, 20)
    strategy = MeshStrategy(config.parallel, config.model, jax.devices())
    init = lambda params: create_state(model, optimizer, 0, params)  # noqa: E731
    state = strategy.create(init, parameters.draw(model, 0))
    layout = lambda x: (x.shape, x.dtype, x.sharding)  # noqa: E731
    planned = state_shapes(config, jax.devices())
    assert jax.tree.map(layout, state) == jax.tree.map(layout, planned)
    compiled = lower_step(config, "float32", jax.devices(), rows=4, S=6, T=7).compile()
    program = compiled.as_text() or ""
    found = collectives(program)
    # XLA adds the sums of the norms of gradients and updates. A norm is a scalar, or has an element for each layer.
    added = ADDED.findall(program)
    assert added
    assert {size for shapes in added for size in sizes_of(shapes)} <= {1}

    reduced, scattered, gathered = {}, Counter(), Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params["params"]):
        size = leaf.addressable_shards[0].data.size
        left = tuple(axis for axis in SIZES if axis not in spec(path))
        assert leaf.size == size * np.prod([SIZES[axis] for axis in {*SIZES} - {*left}])
        reduced.setdefault(left, Counter())[size] += 1
        if "fsdp" not in left:
            scattered[size] += 1
            gathered[size * SIZES["fsdp"]] += 1
    assert found.pop(("reduce-scatter", GROUPS["fsdp",])) == scattered
    assert found.pop(("all-gather", GROUPS["fsdp",])) == gathered
    for axes, sizes in reduced.items():
        assert found.pop(("all-reduce", GROUPS[axes])) == sizes, axes
    # What is left sums activations [4, T, 16] over `tensor`, or numbers of the 28 target tokens of a device. Forward,
    # two sums in each encoder layer, three in each decoder layer and one for each embedding; as many backward.
    (((operation, _), activations),) = found.items()
    assert operation == "all-reduce"
    assert activations == Counter({4 * 6 * 16: 2 * (2 + 1), 4 * 7 * 16: 2 * (3 + 1), 28: 2})
    reported = Counter(operation for _, operation, _ in COLLECTIVE.findall(program))
    assert counted(parse(program)) == reported + Counter({"all-reduce": len(added)})
    donated = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    plan: Any = compiled.memory_analysis()
    assert plan.alias_size_in_bytes == donated == bytes_per_device(planned)


@pytest.mark.parametrize("part", ["params", "optimizer_state"])
def test_fsdp_4_stores_a_quarter_on_each_device(part):
    """Except for vectors, which are 0.1 % of base, and of which every device has all."""
    replicated, sharded = (
        bytes_per_device(getattr(state_shapes(Config(model=ModelConfig(), parallel=own), jax.devices()), part))
        for own in (ParallelConfig(), ParallelConfig(fsdp=4))
    )
    assert 0.25 < sharded / replicated < 0.251


@pytest.mark.parametrize(
    "search", [SearchConfig(beam_size=3, num_best=2), SearchConfig(sample=True)], ids=["beam", "sample"]
)
def test_translations_do_not_depend_on_the_number_of_devices(tiny_model, monkeypatch, search):
    generator, model = np.random.default_rng(0), Transformer(tiny_model)
    params = jax.tree.map(lambda x: 3 * x, parameters.draw(model, 0))
    sources = [generator.integers(3, 270, length).tolist() for length in generator.integers(1, 20, 37)]
    backend = ACCELERATOR._replace(batch_tokens=4 * 32 * 3)

    def translate() -> dict[int, Any]:
        found = {}
        members, ids = ((model, devices.share(params)),), SearchIds(0, 1, 2)
        for chosen, hypotheses in decode(members, sources, np.arange(37), search, ids, backend):
            for row, source in enumerate(chosen):
                found[source] = jax.tree.map(lambda x, row=row: x[row], hypotheses)
        return found

    eight = translate()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "local_device_count", lambda: 1)
        one = translate()
    assert eight.keys() == one.keys() == {*range(37)}
    assert len({tuple(found.tokens[0].tolist()) for found in one.values()}) > 9
    for source, found in one.items():
        np.testing.assert_array_equal(eight[source].tokens, found.tokens)
        np.testing.assert_allclose(eight[source].scores, found.scores, rtol=1e-6)


def test_log_probabilities_do_not_depend_on_the_number_of_devices(tiny_model, make_batch, monkeypatch):
    model, batch = Transformer(tiny_model), make_batch(0, rows=16, S=6, T=7, empty_rows=3)
    params = parameters.draw(model, 0)
    eight = token_log_probabilities((model,), (devices.share(params),), batch)
    assert len(eight.sharding.device_set) == 8
    jax.clear_caches()
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    one = token_log_probabilities((model,), (devices.share(params),), batch)
    np.testing.assert_allclose(eight, one, rtol=1e-5)

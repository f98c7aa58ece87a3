"""Parameters are drawn on the host: each matrix from its own stream, with the distribution that linen would use."""

import dataclasses
import hashlib
import inspect
import math
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from transformer import parameters
from transformer.config import ModelConfig
from transformer.errors import InputError
from transformer.model import Transformer

CONFIG = ModelConfig(
    vocabulary_size=500,
    d_model=64,
    num_heads=4,
    d_ff=128,
    num_encoder_layers=2,
    num_decoder_layers=3,
    norm_position="pre",
    positions="learned",
    max_positions=100,
    attention_bias=True,
    shared_embeddings="none",
    final_logits_bias=True,
    norm="batch",
)


def drawn(config: ModelConfig = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    variables: Any = flatten_dict(parameters.draw(Transformer(config), seed), sep="/")
    return variables


def test_the_numbers_are_those_of_every_version_of_numpy():
    """NumPy promises the bits of Philox, but not those of the distributions that it makes of them."""
    numbers = drawn()
    bits = b"".join(numbers[name].tobytes() for name in sorted(numbers))
    assert hashlib.sha256(bits).hexdigest() == "701f4b125ba03230b4265d90564133d28e17e754799a02a93149f94abb2e7922"


def test_split_and_merge_are_inverse():
    params = parameters.draw(Transformer(dataclasses.replace(CONFIG, vocabulary_size=50, d_model=8, d_ff=8)), 0)[
        "params"
    ]
    trained, frozen = parameters.split(params, ("source_embedding", "*/bias"))
    names = {*flatten_dict(frozen, sep="/")}
    assert names == {name for name in flatten_dict(params, sep="/") if name.endswith(("source_embedding", "/bias"))}
    assert not names & {*flatten_dict(trained, sep="/")}
    jax.tree.map(np.testing.assert_array_equal, parameters.merge(trained, frozen), params)
    with pytest.raises(InputError, match=r"^--training\.freeze Embedding matches no parameter\. .* source_embedding,"):
        parameters.split(params, ("*/bias", "Embedding"))


def test_a_fingerprint_is_of_names_shapes_dtypes_and_bits():
    pair = np.array([1, 2], np.float32)

    def tree(name: str = "b", value: np.ndarray = pair) -> dict[str, Any]:
        return {"params": {name: value, "a": np.zeros(3, np.float32)}}

    reversed_order = {"params": dict(reversed(tree()["params"].items()))}
    text = b"params/a float32 [3]\n" + bytes(12) + b"params/b float32 [2]\n" + pair.tobytes()
    assert parameters.fingerprint(tree()) == parameters.fingerprint(reversed_order) == hashlib.sha256(text).hexdigest()
    changed = [tree("c"), *(tree(value=value) for value in (pair[None], pair.view(np.int32), -pair))]
    assert len({parameters.fingerprint(one) for one in (tree(), *changed)}) == 5


def test_a_key_draws_what_its_seed_draws():
    small = dataclasses.replace(CONFIG, vocabulary_size=50, d_model=8, d_ff=8, norm="layer")
    model, expected = Transformer(small), drawn(small, 3)
    others = [np.int64(3), jnp.int32(3), jax.random.key(3), jax.random.PRNGKey(3)]
    for seed in others:
        numbers: Any = flatten_dict(parameters.draw(model, seed), sep="/")
        assert all(np.array_equal(numbers[name], expected[name]) for name in expected)
    first, second = (parameters.draw(model, key)["params"] for key in jax.random.split(jax.random.key(3)))
    assert not np.array_equal(first["source_embedding"], second["source_embedding"])


@pytest.mark.parametrize("seed", [-1, 1.5, True, "3", np.arange(2), jax.random.split(jax.random.key(0))], ids=repr)
def test_a_seed_is_an_integer_or_one_key(seed):
    with pytest.raises(InputError, match=r"must be an integer that is not negative, or one PRNG key, but is"):
        inspect.unwrap(parameters.draw)(Transformer(CONFIG), seed)


def test_parameters_are_not_drawn_inside_a_compiled_function():
    with pytest.raises(InputError, match=r"drawn on the host, .* Draw them outside of it"):
        jax.jit(lambda key: parameters.draw(Transformer(CONFIG), key))(jax.random.key(0))


def test_the_count_is_of_parameters_alone():
    model = Transformer(CONFIG)
    params = parameters.draw(model, 0)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, parameters.shapes(model))
    leaves: Any = flatten_dict(params, sep="/")
    sizes = {name: leaf.size for name, leaf in leaves.items()}
    assert parameters.count(params) == parameters.count(parameters.shapes(model))
    assert parameters.count(params) == sum(size for name, size in sizes.items() if name.startswith("params/"))
    assert parameters.count(params) < sum(sizes.values())  # batch norm's statistics are none


def test_the_distributions_are_those_of_init():
    """The same shapes, types and constants, and the same variance and largest value, up to what chance allows."""
    tokens, mask = jnp.zeros((1, 1), int), jnp.ones((1, 1), bool)
    initialized = flatten_dict(jax.jit(Transformer(CONFIG).init)(jax.random.key(0), tokens, mask, tokens), sep="/")
    ours = drawn()
    assert ours.keys() == initialized.keys()
    random = 0
    for name, like in initialized.items():
        own, expected = ours[name], np.asarray(like)
        assert (own.shape, own.dtype) == (expected.shape, np.float32)
        if np.unique(expected).size == 1:
            np.testing.assert_array_equal(own, expected, name)
            continue
        random += 1
        largest = float(np.abs(expected).max())
        assert np.std(own) == pytest.approx(np.std(expected), rel=6 / math.sqrt(own.size)), name
        assert abs(own.mean()) < 6 * np.std(own) / math.sqrt(own.size), name
        tolerance = 0.01 if name.split("/")[-1].startswith("kernel") else 0.3  # uniform or normal
        assert np.abs(own).max() == pytest.approx(largest, rel=tolerance), name
    assert random == 3 + 1 + 4 + 2 + 8 + 2  # embeddings, positions; projections and feed-forward of both stacks


def test_every_matrix_has_random_numbers_of_its_own():
    rows = []
    for name, array in drawn().items():
        if array.std() and "scale" not in name:
            layers = array if "/layers/" in name else array[None]
            rows += [layer.ravel()[:1000] / layer.std() for layer in layers]
    correlations = np.corrcoef([row for row in rows if row.size == 1000])
    assert np.abs(correlations - np.eye(len(correlations))).max() < 6 / math.sqrt(1000)


def test_a_seed_and_a_path_decide():
    first, again, other = drawn(), drawn(), drawn(seed=1)
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
        assert np.array_equal(other[name], array) == (np.unique(array).size == 1), name


def test_a_deeper_model_begins_with_the_same_layers():
    deeper = drawn(dataclasses.replace(CONFIG, num_encoder_layers=4))
    for name, array in drawn().items():
        np.testing.assert_array_equal(deeper[name][: len(array)], array)


def test_the_bits_are_the_same_in_every_process_and_on_eight_devices():
    """These numbers are part of the promise that a seed names a model: no version of this project may change them."""
    code = (
        "import jax, numpy as np; from transformer import ModelConfig, Transformer, parameters\n"
        "p = parameters.draw(Transformer(ModelConfig(vocabulary_size=500, d_model=64, num_heads=4)), 7)['params']\n"
        "kernel = p['decoder']['layers']['self_attention']['query']['kernel']\n"
        "print(jax.device_count(), p['embedding'][0, :2].view(np.uint32).tolist(), kernel[5, 0, :2].tolist())"
    )
    for devices in ("1", "8"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        )
        assert done.stdout.strip().split(maxsplit=1) == [devices, EXPECTED]


EXPECTED = "[3180620689, 1030760969] [0.0861634761095047, 0.06767448037862778]"  # NumPy 2, Philox


def test_matrices_are_told_from_vectors():
    variables = parameters.draw(Transformer(CONFIG), 0)
    found = flatten_dict(parameters.are_matrices(variables["params"]), sep="/")
    for name, is_matrix in found.items():
        vector = name.split("/")[-1] in ("scale", "bias", "bias_in", "bias_out", "logits_bias")
        assert is_matrix != vector, name

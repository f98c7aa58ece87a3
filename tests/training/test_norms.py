"""Norms by part of the model against NumPy in float64."""

import jax
import numpy as np
import pytest

from transformer import parameters
from transformer.config import ModelConfig
from transformer.model import Transformer
from transformer.training.norms import by_layer, norms

CONFIG = ModelConfig(
    vocabulary_size=270,
    d_model=8,
    num_heads=2,
    d_ff=16,
    num_encoder_layers=2,
    num_decoder_layers=3,
    shared_embeddings="none",
    norm_position="pre",
    positions="learned",
)
# The parts by their parameters: the start of the name, and the layer of a stack.
PARTS = {
    "source_embedding": ("source_embedding", None),
    "target_embedding": ("target_embedding", None),
    "output_embedding": ("output_embedding", None),
    "positions": ("positions", None),
    "encoder/norm": ("encoder/norm/", None),
    "decoder/norm": ("decoder/norm/", None),
    **{f"encoder/{layer}": ("encoder/layers/", layer) for layer in range(2)},
    **{f"decoder/{layer}": ("decoder/layers/", layer) for layer in range(3)},
}


@pytest.mark.parametrize("freeze", [(), ("*_embedding", "encoder/*", "*/bias_in")])
def test_norms_of_every_part(freeze):
    generator = np.random.default_rng(0)
    shapes, _ = parameters.split(parameters.shapes(Transformer(CONFIG))["params"], freeze)
    tree = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes)
    named = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    leaves = [(name, leaf.astype(np.float64)) for name, leaf in named.items()]
    expected = {"size": np.linalg.norm(np.concatenate([leaf.ravel() for _, leaf in leaves]))}
    for part, (start, layer) in PARTS.items():
        own = [leaf if layer is None else leaf[layer] for name, leaf in leaves if name.startswith(start)]
        if own:
            expected[f"size/{part}"] = np.linalg.norm(np.concatenate([leaf.ravel() for leaf in own]))
    assert len(expected) == (1 + len(PARTS) if not freeze else 6)
    found = by_layer(jax.device_get(jax.jit(norms, static_argnums=1)(tree, "size")))
    assert found == {name: pytest.approx(norm, rel=1e-6) for name, norm in expected.items()}


def test_each_layer_has_a_name_of_its_own():
    assert by_layer({"a": np.array(0.5), "b/c": np.array([1, 2])}) == {"a": 0.5, "b/c/0": 1.0, "b/c/1": 2.0}

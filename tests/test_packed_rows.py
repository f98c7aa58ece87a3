"""What a pair of sentences is worth does not depend on whether it has a row of its own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer import parameters
from transformer.config import ModelConfig
from transformer.data.batches import Batches, TokenPairs
from transformer.model import Transformer
from transformer.shapes import Batch

CONFIG: dict[str, Any] = {
    "vocabulary_size": 30,
    "d_model": 16,
    "num_heads": 2,
    "d_ff": 24,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "max_positions": 12,
}
LENGTHS = np.array([[9, 2, 5, 3, 7, 2, 4], [6, 5, 4, 2, 9, 3, 3]])


def batch(pack_length: int | None) -> Batch:
    """The same pairs, packed or not, in one batch."""
    generator = np.random.default_rng(0)
    sides = [(generator.integers(3, 30, side.sum()), np.concatenate([[0], np.cumsum(side)])) for side in LENGTHS]
    special: dict[str, Any] = {"pad_id": 0, "start_id": 1, "end_id": 2}
    pairs = TokenPairs(*sides[0], *sides[1])
    found = Batches(pairs, tokens=200, num_shapes=1, row_multiple=1, seed=0, pack_length=pack_length, **special)
    assert found.per_epoch == 1
    return jax.tree.map(jnp.asarray, found[0])


def loss_and_gradient(model: Transformer, params: Any, batch: Batch) -> tuple:
    def loss(params: Any) -> Any:
        return model.apply(params, batch, label_smoothing=0.1, method="loss")

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.mark.parametrize(
    ("dtype", "options", "tolerance"),
    [
        ("float32", {}, 1e-5),
        ("float32", {"positions": "learned", "norm_position": "pre", "norm": "rms"}, 1e-5),
        ("bfloat16", {"norm_position": "pre"}, 2e-2),
    ],
)
def test_packed_pairs_have_the_loss_and_the_gradient_of_pairs_by_themselves(dtype, options, tolerance):
    model, packed, single = Transformer(ModelConfig(**CONFIG, **options), jnp.dtype(dtype)), batch(24), batch(None)
    assert packed.source_segments is not None
    assert packed.source_segments.max() >= 3
    assert packed.source.size < single.source.size
    params = parameters.draw(model, 0)
    (actual, count), gradient = loss_and_gradient(model, params, packed)
    (expected, expected_count), expected_gradient = loss_and_gradient(model, params, single)
    assert count == expected_count == LENGTHS[1].sum() + LENGTHS.shape[1]
    np.testing.assert_allclose(actual, expected, rtol=tolerance)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other)


def test_nothing_reaches_another_pair_of_the_row():
    model, packed = Transformer(ModelConfig(**CONFIG)), batch(24)
    params: Any = parameters.draw(model, 0)

    @jax.jit
    def sensitivity(embedding: jax.Array) -> jax.Array:
        """How the hidden states of segment 1 change with a source embedding that only others of its row have."""

        def of_first(embedding: jax.Array) -> jax.Array:
            changed = {"params": params["params"] | {"embedding": embedding}}
            hidden: Any = model.apply(changed, *arrays, method="hidden")
            return jnp.where(packed.target_segments == 1, jnp.abs(hidden).sum(-1), 0).sum()

        return jax.grad(of_first)(embedding)

    target = jnp.where(packed.target_segments == 1, 3, 4)
    source = jnp.where(packed.source_segments == 1, 5, 6)
    arrays = (
        source,
        packed.source_mask,
        target,
        packed.target_mask,
        None,
        packed.source_segments,
        packed.target_segments,
    )
    gradient = sensitivity(params["params"]["embedding"])
    assert (gradient[jnp.array([4, 6])] == 0).all()
    assert (gradient[jnp.array([3, 5])] != 0).any(axis=-1).all()

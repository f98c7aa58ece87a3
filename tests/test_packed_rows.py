"""What a pair of sentences is worth does not depend on whether it has a row of its own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics import quick_jit

from transformer import parameters
from transformer.config import ModelConfig, TokenizerConfig
from transformer.data.batches import Batches
from transformer.data.rows import pad
from transformer.data.tokens import TokenPairs
from transformer.model import Transformer
from transformer.ops.dropout import dropout_key
from transformer.shapes import Batch

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG: dict[str, Any] = {
    "vocabulary_size": 30,
    "d_model": 16,
    "num_heads": 2,
    "d_ff": 24,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "max_positions": 10,  # for the longest pair, not for the rows that it is packed into
    "dropout": 0.0,
}
LENGTHS = np.array([[9, 2, 5, 3, 7, 2, 4], [6, 5, 4, 2, 9, 3, 3]])


def batches() -> tuple[Batch, Batch]:
    """The same pairs, packed into rows of more tokens than the model has positions, and with a row for each."""
    generator = np.random.default_rng(0)
    sources, targets = ([generator.integers(3, 30, length).tolist() for length in side] for side in LENGTHS)
    flat = []
    for sentences, lengths in zip((sources, targets), LENGTHS, strict=True):
        flat += [np.concatenate(sentences).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)])]
    found = Batches(TokenPairs(*flat), TokenizerConfig(), tokens=200, row_multiple=1, seed=0, pack_length=24)
    assert found.per_epoch == 1
    rows = len(sources)
    source, source_mask = pad([[*ids, 2] for ids in sources], rows, 10, 0)
    target_input, _ = pad([[1, *ids] for ids in targets], rows, 10, 0)
    target_output, target_mask = pad([[*ids, 2] for ids in targets], rows, 10, 0)
    single = Batch(source, source_mask, target_input, target_output, target_mask, np.arange(rows, dtype=np.int32))
    return jax.tree.map(jnp.asarray, (found[0], single))


def loss_and_gradient(model: Transformer, variables: Any, batch: Batch, training: bool) -> tuple:
    """The loss with the number of tokens and what it leaves in the running statistics, and its gradient."""

    def loss(params: Any) -> Any:
        key = dropout_key(seed=0, step=0, row=batch.row) if training else None
        statistics = [name for name in variables if name != "params"]
        (loss, count), updated = model.apply(
            variables | {"params": params},
            batch,
            label_smoothing=0.1,
            dropout=key,
            method="loss",
            mutable=statistics,
        )
        return loss, (count, updated)

    return quick_jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.mark.parametrize(
    ("dtype", "options", "training", "tolerance"),
    [
        ("float32", {}, False, 1e-5),
        ("float32", {"positions": "learned", "norm_position": "pre", "norm": "rms"}, False, 1e-5),
        ("float32", {"positions": "learned", "norm": "batch", "decoder_start": "zeros"}, False, 1e-5),
        ("float32", {"positions": "learned", "norm": "batch"}, True, 1e-5),
        ("float32", {"positions": "rotary"}, False, 1e-5),
        ("bfloat16", {"norm_position": "pre"}, False, 2e-2),
    ],
)
def test_packed_pairs_have_the_loss_and_the_gradient_of_pairs_by_themselves(dtype, options, training, tolerance):
    model, (packed, single) = Transformer(ModelConfig(**CONFIG, **options), jnp.dtype(dtype)), batches()
    assert packed.source_segments is not None
    assert packed.source_segments.max() >= 3
    assert packed.source.size < single.source.size
    assert min(packed.source.shape[1], packed.target_input.shape[1]) > 2 * model.config.max_positions
    variables = parameters.draw(model, 0)
    (actual, (count, statistics)), gradient = loss_and_gradient(model, variables, packed, training)
    (expected, (expected_count, expected_statistics)), expected_gradient = loss_and_gradient(
        model, variables, single, training
    )
    assert count == expected_count == LENGTHS[1].sum() + LENGTHS.shape[1]
    np.testing.assert_allclose(actual, expected, rtol=tolerance)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        if training and np.linalg.norm(other) < 1e-5:  # a bias before batch norm, of gradient 0 but for rounding
            assert np.linalg.norm(one) < 1e-5
        else:
            assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other)
    assert bool(statistics) == (model.config.norm == "batch")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), statistics, expected_statistics)


def test_nothing_reaches_another_pair_of_the_row():
    model, (packed, _) = Transformer(ModelConfig(**CONFIG)), batches()
    params: Any = parameters.draw(model, 0)

    @jax.jit
    def sensitivity(embedding: jax.Array) -> jax.Array:
        """How the hidden states of segment 1 change with a source embedding that only others of its row have."""

        def of_first(embedding: jax.Array) -> jax.Array:
            changed = {"params": params["params"] | {"embedding": embedding}}
            hidden: Any = model.apply(changed, batch, method="hidden")
            return jnp.where(packed.target_segments == 1, jnp.abs(hidden).sum(-1), 0).sum()

        return jax.grad(of_first)(embedding)

    target = jnp.where(packed.target_segments == 1, 3, 4)
    source = jnp.where(packed.source_segments == 1, 5, 6)
    batch = packed._replace(source=source, target_input=target)
    gradient = sensitivity(params["params"]["embedding"])
    assert (gradient[jnp.array([4, 6])] == 0).all()
    assert (gradient[jnp.array([3, 5])] != 0).any(axis=-1).all()

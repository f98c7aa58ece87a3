import dataclasses
import json
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from numerics import quick_jit

from transformer.checkpoint import Checkpoints
from transformer.config import ModelConfig
from transformer.errors import InputError
from transformer.model import Transformer
from transformer.ops.dropout import DropoutKey, dropout_key
from transformer.shapes import Batch
from transformer.training.norms import by_layer
from transformer.training.step import FINITE, TrainState, create_state, eval_step, train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

LABEL_SMOOTHING = 0.1
SEED = 5
OPTIMIZER = optax.sgd(1.0)  # the update is the gradient itself


@cache
def jitted_step(config: ModelConfig, freeze: tuple[str, ...] = ()) -> Any:
    step = partial(
        train_step,
        model=Transformer(config),
        optimizer=OPTIMIZER,
        label_smoothing=LABEL_SMOOTHING,
        seed=SEED,
        freeze=freeze,
    )
    return quick_jit(step)


def micro_batches(batch: Batch, accumulation_steps: int) -> Batch:
    """The batch with its rows split into micro-batches."""
    return jax.tree.map(lambda x: np.moveaxis(x.reshape(-1, accumulation_steps, *x.shape[1:]), 1, 0), batch)


def plain_loss_sum(
    model: Transformer, params: Any, batch: Batch, *, smoothing: float, dropout: DropoutKey | None = None
) -> jax.Array:
    """Cross-entropy with the smoothed target distribution, written out over the logits of `__call__`."""
    logits, _ = model.apply(params, batch.source, batch.source_mask, batch.target_input, batch.target_mask, dropout)
    size = logits.shape[-1]
    target = (1 - smoothing) * jax.nn.one_hot(batch.target_output, size) + smoothing / size
    losses = -(target * jax.nn.log_softmax(logits)).sum(-1)
    return jnp.where(batch.target_mask, losses, 0).sum()


def assert_close(actual: Any, expected: Any) -> None:
    """Equal up to float32 rounding, relative to the largest element of each array."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(1.0, float(np.abs(b).max())))


@cache
def plain_update(config: ModelConfig) -> Any:
    """(params, batch, dropout key) -> mean loss per target token, and its gradient."""

    def mean_loss(params: Any, batch: Batch, dropout: DropoutKey | None) -> jax.Array:
        loss = plain_loss_sum(Transformer(config), params, batch, smoothing=LABEL_SMOOTHING, dropout=dropout)
        return loss / batch.target_mask.sum()

    return quick_jit(jax.value_and_grad(mean_loss))


@pytest.mark.parametrize(("dropout", "accumulation_steps"), [(False, 4), (True, 1), (True, 4)])
def test_update_is_the_gradient_of_the_mean_loss_per_token(tiny_model, make_batch, dropout, accumulation_steps):
    rates = {} if dropout else dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    config = dataclasses.replace(tiny_model, **rates)
    batch = make_batch(0, rows=8, S=6, T=7, empty_rows=5)  # of four micro-batches, the last one is empty
    state = create_state(Transformer(config), OPTIMIZER, SEED)._replace(step=jnp.int32(3))
    key = dropout_key(SEED, 3, jnp.asarray(batch.row)) if dropout else None
    loss, gradient = plain_update(config)(state.params, batch, key)
    new_state, metrics = jitted_step(config)(state, micro_batches(batch, accumulation_steps))

    expected = jax.tree.map(lambda leaf, slope: leaf - slope, state.params, gradient)
    assert_close(new_state.params, expected)
    assert int(new_state.step) == 4
    tokens = batch.target_mask.sum()
    norms = {part: pytest.approx(norm, rel=1e-5) for part, norm in norms_of(gradient["params"]).items()}
    assert by_layer(jax.device_get(metrics)) == {
        "loss_sum": pytest.approx(float(loss) * tokens, rel=1e-5),
        "target_tokens": tokens,
        "source_tokens": batch.source_mask.sum(),
        **{f"{what}_norm{part}": norm for what in ("gradient", "update") for part, norm in norms.items()},
    }


def norms_of(gradient: Any) -> dict[str, Any]:
    """The norm of a gradient and of its parts, in float64. The model has one layer per stack, and no final norms."""
    leaves = {name: np.asarray(leaf, np.float64).ravel() for name, leaf in flatten_dict(gradient, sep="/").items()}
    parts = {"": "", "/embedding": "embedding", "/encoder/0": "encoder/layers/", "/decoder/0": "decoder/layers/"}
    return {
        part: np.linalg.norm(np.concatenate([leaf for name, leaf in leaves.items() if name.startswith(prefix)]))
        for part, prefix in parts.items()
    }


def test_a_step_that_is_not_finite_is_skipped(tiny_model, make_batch):
    """NaN among the parameters makes the loss NaN; among Adam's moments, only the update. A finite step is made."""
    config, optimizer = dataclasses.replace(tiny_model, norm="batch"), optax.adam(0.1)
    model = Transformer(config)
    step = partial(train_step, model=model, optimizer=optimizer, label_smoothing=0.1, seed=SEED)
    skipping, plain = quick_jit(partial(step, skip=True)), quick_jit(step)
    batch = make_batch(0, rows=8, S=6, T=7, empty_rows=2)
    state = plain(create_state(model, optimizer, SEED), batch)[0]
    (made, metrics), expected = skipping(state, batch), plain(state, batch)
    assert_close((made, metrics), expected)
    for tree, finite in ((state.optimizer_state[0].mu, True), (state.params["params"], False)):
        stack = tree["encoder"]["layers"]["feed_forward"]
        stack["kernel_in"] = stack["kernel_in"].at[0, 3, 3].set(jnp.nan)
        skipped, metrics = skipping(state, batch)
        jax.tree.map(np.testing.assert_array_equal, skipped, state._replace(step=state.step + 1))
        assert [np.isfinite(metrics[name]).all() for name in FINITE] == [finite, finite, False]
        assert not np.isfinite(metrics["update_norm/encoder"])


def test_frozen_parameters_have_no_gradient(tiny_model, make_batch):
    """The others are updated as without freezing, and the norm of the gradient counts them alone."""
    freeze = ("embedding", "encoder/*", "*/bias_in")
    batch = micro_batches(make_batch(0, rows=8, S=6, T=7, empty_rows=2), 4)
    state = create_state(Transformer(tiny_model), OPTIMIZER, SEED)
    free, _ = jitted_step(tiny_model)(state, batch)
    found, metrics = jitted_step(tiny_model, freeze)(state, batch)
    before, after, expected = (dict[str, Any](flatten_dict(one.params, sep="/")) for one in (state, found, free))
    frozen = {name for name in before if name.startswith(("params/embedding", "params/encoder/"))}
    frozen.add("params/decoder/layers/feed_forward/bias_in")
    assert frozen < {*before}
    for name in frozen:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    trained = before.keys() - frozen
    assert_close({name: after[name] for name in trained}, {name: expected[name] for name in trained})
    squares = [np.square(np.asarray(expected[name], np.float64) - before[name]).sum() for name in trained]
    assert float(metrics["gradient_norm"]) == pytest.approx(np.sqrt(sum(squares)), rel=1e-4)


def test_a_batch_without_an_accumulation_axis_is_one_micro_batch(tiny_model, make_batch):
    state = create_state(Transformer(tiny_model), OPTIMIZER, SEED)
    batch = make_batch(0, rows=8, S=6, T=7, empty_rows=2)
    plain, accumulated = (jitted_step(tiny_model)(state, given) for given in (batch, micro_batches(batch, 1)))
    jax.tree.map(np.testing.assert_array_equal, plain, accumulated)
    with pytest.raises(
        InputError, match=r"\[accumulation, B, \.\.\.\], but .* has the shape \[1, 2, 4\]\. To use an axis of devices"
    ):
        jitted_step(tiny_model)(state, jax.tree.map(lambda x: x[None], micro_batches(batch, 2)._replace()))


def test_a_state_has_what_the_model_applies(tiny_model, make_batch):
    """`Transformer.apply` takes `state.params` first, with batch norm too. A seed and its key give the same state."""
    model = Transformer(dataclasses.replace(tiny_model, norm="batch"))
    state = create_state(model, OPTIMIZER, jax.random.key(SEED))
    jax.tree.map(np.testing.assert_array_equal, state, create_state(model, OPTIMIZER, SEED))
    batch = make_batch(0, rows=2, S=6, T=7, empty_rows=0)
    logits, _ = jax.jit(model.apply)(
        state.params, batch.source, batch.source_mask, batch.target_input, batch.target_mask
    )
    assert logits.shape == (2, 7, 270)


def test_dropout_differs_between_steps_and_rows(tiny_model, make_batch):
    step = jitted_step(tiny_model)
    state = create_state(Transformer(tiny_model), OPTIMIZER, SEED)
    batch = micro_batches(make_batch(0, rows=8, S=6, T=7, empty_rows=2), 1)
    losses = [
        float(step(state._replace(step=jnp.int32(number)), batch._replace(row=batch.row + shift))[1]["loss_sum"])
        for number, shift in ((0, 0), (1, 0), (0, 8), (0, 0))
    ]
    assert losses[0] == losses[3]
    assert len(set(losses)) == 3


def test_a_batch_of_padding_changes_nothing(tiny_model, make_batch):
    state = create_state(Transformer(tiny_model), OPTIMIZER, SEED)
    new_state, metrics = jitted_step(tiny_model)(state, micro_batches(make_batch(0, rows=8, S=6, T=7, empty_rows=8), 1))
    jax.tree.map(np.testing.assert_array_equal, new_state.params, state.params)
    assert {*by_layer(jax.device_get(metrics)).values()} == {0.0}


def test_evaluation_sums_the_unsmoothed_loss_without_dropout(tiny_model, make_batch):
    model = Transformer(tiny_model)
    batch = make_batch(1, rows=8, S=6, T=7, empty_rows=2)
    state = create_state(model, OPTIMIZER, SEED)
    sums = quick_jit(partial(eval_step, model=model))(state.params, batch)
    expected = quick_jit(partial(plain_loss_sum, model, smoothing=0.0))(state.params, batch)
    assert float(sums["loss_sum"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(sums["target_tokens"]) == batch.target_mask.sum()


def test_state_before_the_first_step(tiny_model):
    model, optimizer = Transformer(dataclasses.replace(tiny_model, norm="batch")), optax.adam(1e-3)
    state, other = create_state(model, optimizer, 1), create_state(model, optimizer, 2)
    assert isinstance(state, TrainState)
    assert int(state.step) == 0
    assert set(state.params) == {"params", "batch_stats"}
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.optimizer_state))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert not np.array_equal(*(drawn.params["params"]["embedding"] for drawn in (state, other)))
    jax.tree.map(np.testing.assert_array_equal, state, create_state(model, optimizer, 1))


def test_the_names_of_a_state_on_disk_never_change(tiny_model, tmp_path):
    """Runs of earlier versions depend on these names."""
    state = create_state(Transformer(dataclasses.replace(tiny_model, norm="batch")), OPTIMIZER, 1)
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        checkpoints.save(7, state, {})
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(7, state), state)
    metadata = json.loads((tmp_path / "checkpoints" / "7" / "params" / "_METADATA").read_text(encoding="utf-8"))
    names = {tuple(key["key"] for key in leaf["key_metadata"])[:2] for leaf in metadata["tree_metadata"].values()}
    assert names == {("batch_stats", "batch_stats"), *(("params", name) for name in state.params["params"])}

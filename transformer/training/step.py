"""One step of training and one of evaluation: pure functions of arrays.

They see one device's share of the batch. `total` sums a tree of arrays over the devices; the default is for one device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from transformer import parameters
from transformer.errors import require
from transformer.model import Transformer
from transformer.ops.dropout import DropoutKey, dropout_key
from transformer.shapes import Batch, Params

Metrics = dict[str, Array]  # float32 sums over the batch, never means


class TrainState(NamedTuple):
    """Everything that a step changes. Arrays only: model and optimizer are closed over.

    step: updates made.
    params: what `Transformer.apply` takes first: the parameters under `params`, and further variables, if any.
    optimizer_state: of the parameters alone.
    """

    step: Array
    params: Params
    optimizer_state: optax.OptState


def create_state(
    model: Transformer, optimizer: optax.GradientTransformation, seed: int | np.integer | Array
) -> TrainState:
    """The state before the first step: parameters drawn from a seed or PRNG key by `parameters.draw`, zero moments."""
    params = parameters.draw(model, seed)
    return TrainState(jnp.zeros((), jnp.int32), params, jax.jit(optimizer.init)(params["params"]))


def batch_loss(
    model: Transformer,
    params: Params,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    dropout: DropoutKey | None = None,
) -> tuple[Array, tuple[Array, Params]]:
    """The summed loss of a batch in nats; and beside it the number of target tokens, and the new variables: what
    `params` has besides the parameters."""
    (loss, count), updated = model.apply(
        params,
        batch,
        label_smoothing=label_smoothing,
        dropout=dropout,
        method="loss",
        mutable=[name for name in params if name != "params"],
    )
    return loss, (count, dict(updated))


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Transformer,
    optimizer: optax.GradientTransformation,
    label_smoothing: float,
    seed: int,
    total: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[TrainState, Metrics]:
    """One optimizer update from a batch [B, ...], or from one whose arrays lead with the axis of accumulation steps,
    [accumulation, B, ...].

    Loss and gradient are summed over the target tokens of every accumulation step and device, and divided once, by
    their number: the update does not depend on how the batch is split. (Running statistics may: see `batch_norm.py`.)

    Raises:
        InputError: the batch has further axes.
    """
    require(
        batch.row.ndim in (1, 2),
        "train_step takes a batch [B, ...] or [accumulation, B, ...], but its rows are numbered by an array of shape "
        f"{[*batch.row.shape]}. The axis of devices is for `parallel.map_train_step`.",
    )
    if batch.row.ndim == 1:
        batch = jax.tree.map(lambda x: x[None], batch)
    variables = dict(state.params)
    trained = variables.pop("params")

    def gradient_of(variables: Params, micro_batch: Batch) -> tuple[Any, Params]:
        key = dropout_key(seed, state.step, micro_batch.row)
        (loss, (count, variables)), gradient = jax.value_and_grad(
            lambda trained: batch_loss(
                model, {"params": trained, **variables}, micro_batch, label_smoothing=label_smoothing, dropout=key
            ),
            has_aux=True,
        )(trained)
        return (gradient, loss, count), variables

    def accumulate(carry: tuple[Any, Params], micro_batch: Batch) -> tuple[tuple[Any, Params], None]:
        sums, variables = carry
        own, variables = gradient_of(variables, micro_batch)
        return (jax.tree.map(jnp.add, sums, own), variables), None

    if batch.row.shape[0] == 1:
        sums, variables = gradient_of(variables, jax.tree.map(lambda x: x[0], batch))
    else:
        zeros = jax.tree.map(jnp.zeros_like, trained), jnp.zeros(()), jnp.zeros(())
        (sums, variables), _ = lax.scan(accumulate, (zeros, variables), batch)
    (gradient, loss, count), source_tokens = total((sums, batch.source_mask.sum(dtype=jnp.float32)))
    gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), gradient)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, trained)
    params = {"params": optax.apply_updates(trained, updates), **variables}
    metrics = {
        "loss_sum": loss,
        "target_tokens": count,
        "source_tokens": source_tokens,
        "gradient_norm": optax.tree.norm(gradient),
    }
    return TrainState(state.step + 1, params, optimizer_state), metrics


def eval_step(
    params: Params,
    batch: Batch,
    *,
    model: Transformer,
    total: Callable[[Any], Any] = lambda tree: tree,
) -> Metrics:
    """Sums of the unsmoothed loss in nats and of the target tokens, without dropout."""
    loss, (count, _) = batch_loss(model, params, batch)
    return total({"loss_sum": loss, "target_tokens": count})

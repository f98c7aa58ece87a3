"""One step of training and one of evaluation: pure functions of arrays, collectives by axis name.

They see one device's share of the batch. What is summed over devices goes through `psum` over `axis_name`; with
`axis_name=None` there is one device and nothing to sum.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from transformer import parameters
from transformer.model import Transformer
from transformer.ops.dropout import DropoutKey, dropout_key
from transformer.shapes import Batch, Params

Metrics = dict[str, Array]  # float32 sums over the batch, never means


class TrainState(NamedTuple):
    """Everything that a step changes. Arrays only: model and optimizer are closed over."""

    step: Array
    params: Params
    batch_stats: Params  # running statistics of batch norm; empty under any other norm
    optimizer_state: optax.OptState


def create_state(model: Transformer, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step: parameters drawn from `seed`, zero moments."""
    variables = parameters.draw(model, seed)
    params = variables.pop("params")
    return TrainState(jnp.zeros((), jnp.int32), params, variables, jax.jit(optimizer.init)(params))


def batch_loss(
    model: Transformer,
    params: Params,
    batch_stats: Params,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    dropout: DropoutKey | None = None,
) -> tuple[Array, tuple[Array, Params]]:
    """The summed loss of a batch in nats; and beside it the number of target tokens, and new running statistics."""
    (loss, count), updated = model.apply(
        {"params": params, **batch_stats},
        batch,
        label_smoothing=label_smoothing,
        dropout=dropout,
        method="loss",
        mutable=list(batch_stats),
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
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One optimizer update from a batch whose arrays lead with the axis of accumulation steps: [accumulation, B, ...].

    Loss and gradient are summed over the target tokens of every accumulation step and device, and divided once, by
    their number: the update does not depend on how the batch is split. (Batch norm's statistics do: they are those of
    one accumulation step, over all devices.)
    """

    def gradient_of(batch_stats: Params, micro_batch: Batch) -> tuple[Any, Params]:
        key = dropout_key(seed, state.step, micro_batch.row)
        (loss, (count, batch_stats)), gradient = jax.value_and_grad(
            lambda params: batch_loss(
                model, params, batch_stats, micro_batch, label_smoothing=label_smoothing, dropout=key
            ),
            has_aux=True,
        )(state.params)
        return (gradient, loss, count), batch_stats

    def accumulate(carry: tuple[Any, Params], micro_batch: Batch) -> tuple[tuple[Any, Params], None]:
        sums, batch_stats = carry
        own, batch_stats = gradient_of(batch_stats, micro_batch)
        return (jax.tree.map(jnp.add, sums, own), batch_stats), None

    if batch.row.shape[0] == 1:
        sums, batch_stats = gradient_of(state.batch_stats, jax.tree.map(lambda x: x[0], batch))
    else:
        zeros = jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(()), jnp.zeros(())
        (sums, batch_stats), _ = lax.scan(accumulate, (zeros, state.batch_stats), batch)
    gradient, loss, count = sums
    source_tokens = batch.source_mask.sum(dtype=jnp.float32)
    if axis_name is not None:
        gradient, loss, count, source_tokens = lax.psum((gradient, loss, count, source_tokens), axis_name)
    gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), gradient)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "loss_sum": loss,
        "target_tokens": count,
        "source_tokens": source_tokens,
        "gradient_norm": optax.tree.norm(gradient),
    }
    return TrainState(state.step + 1, params, batch_stats, optimizer_state), metrics


def eval_step(
    params: Params, batch_stats: Params, batch: Batch, *, model: Transformer, axis_name: str | None = None
) -> Metrics:
    """Sums of the unsmoothed loss in nats and of the target tokens, without dropout."""
    loss, (count, _) = batch_loss(model, params, batch_stats, batch)
    sums: Any = {"loss_sum": loss, "target_tokens": count}
    return sums if axis_name is None else lax.psum(sums, axis_name)

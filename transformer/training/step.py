"""One training step and one evaluation step, as pure functions of arrays.

Each function works on one device's share of the batch. The argument `total` sums a tree of arrays over the devices; its
default is for a single device.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from transformer import parameters
from transformer.config import Config
from transformer.errors import require
from transformer.model import Transformer
from transformer.ops.dropout import DropoutKey, dropout_key
from transformer.shapes import Batch, Params
from transformer.training.norms import norms

Metrics = dict[str, Array]  # float32: sums over the batch, never means, and norms
SUMS = ("loss_sum", "target_tokens", "source_tokens")
FINITE = ("loss_sum", "gradient_norm", "update_norm")
"""Metrics of a step that must be finite."""


class TrainState(NamedTuple):
    """Everything that a training step changes.

    It holds arrays only; the step closes over the model and the optimizer.

    step: Number of steps made, an int32 scalar.
    params: The variables that `Transformer.apply` takes first: the parameters under `params`, and running statistics if
        the model has any. All are float32.
    optimizer_state: Optax state for the trained parameters only. Frozen ones have no moments.
    """

    step: Array
    params: Params
    optimizer_state: optax.OptState


def create_state(
    model: Transformer,
    optimizer: optax.GradientTransformation,
    seed: int | np.integer | Array,
    initial: Params | None = None,
    freeze: Sequence[str] = (),
) -> TrainState:
    """Makes the state before the first step.

    Args:
        model: The architecture.
        optimizer: The optimizer; its moments start at zero.
        seed: A non-negative integer or a PRNG key, from which `parameters.draw` draws the parameters.
        initial: The variables to start with, as `Transformer.apply` takes them. None draws them.
        freeze: Patterns of names of parameters that are not trained (`training.freeze`).
    """
    params = parameters.draw(model, seed) if initial is None else initial
    trained, _ = parameters.split(params["params"], freeze)
    return TrainState(jnp.zeros((), jnp.int32), params, jax.jit(optimizer.init)(trained))


def batch_loss(
    model: Transformer,
    params: Params,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    dropout: DropoutKey | None = None,
) -> tuple[Array, tuple[Array, Params]]:
    """The loss of a batch, summed over its target tokens.

    Args:
        model: The architecture.
        params: The variables that `Transformer.apply` takes first.
        batch: A batch [B, ...].
        label_smoothing: Share of the target distribution spread over the vocabulary (section 5.4).
        dropout: Key of the dropout masks; None applies no dropout.

    Returns: The summed loss in nats. With it, as auxiliary output, the number of target tokens and the updated running
        statistics (the variables in `params` that are not parameters).
    """
    (loss, count), updated = model.apply(
        model.axes.gather(params),
        batch,
        label_smoothing=label_smoothing,
        dropout=dropout,
        method="loss",
        mutable=[name for name in params if name != "params"],
    )
    return loss, (count, dict(updated))


def configured(config: Config, model: Transformer, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Returns `train_step` with the settings of an experiment. It takes `state`, `batch` and `total`."""
    training = config.training
    return partial(
        train_step,
        model=model,
        optimizer=optimizer,
        label_smoothing=training.label_smoothing,
        seed=config.seed,
        freeze=training.freeze,
        skip=training.max_skipped_steps > 0,
    )


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Transformer,
    optimizer: optax.GradientTransformation,
    label_smoothing: float,
    seed: int,
    freeze: Sequence[str] = (),
    skip: bool = False,
    total: Callable[[Any], Any] = lambda tree: tree,
    shard: Callable[[Callable], Callable] = lambda function: function,
) -> tuple[TrainState, Metrics]:
    """Makes one optimizer update.

    Loss and gradient are summed over the target tokens of all accumulation steps and devices, and divided once by their
    number. The update therefore does not depend on how the batch is split. (Running statistics may: see
    `batch_norm.py`.)

    Frozen parameters come out as they came in. No gradient is computed for them, so the norm of the gradient, and
    clipping by it, count the trained parameters only. Running statistics are no parameters and cannot be frozen.

    Args:
        state: The state before the update.
        batch: A batch [B, ...], or micro-batches [accumulation, B, ...].
        model: The architecture.
        optimizer: The optimizer.
        label_smoothing: Share of the target distribution spread over the vocabulary (section 5.4).
        seed: Seed of the dropout masks.
        freeze: Patterns of names of parameters that are not trained (`training.freeze`).
        skip: Whether to leave everything but the number of steps as it is if one of `FINITE` is not finite. The
            learning rate and Adam's bias correction then continue as if this batch had not been there.
        total: Sums a tree of arrays over the devices.
        shard: Maps a function of (trained parameters, frozen ones, other variables, step, batch) over the devices of a
            mesh. The function returns the gradient, and a tree that is the same on all devices. The default calls it on
            one device.

    Returns: The new state, and the metrics: sums of the loss in nats, target tokens and source tokens, and the norms of
        the gradient and of the update (see `norms`). The gradient is measured before it is clipped.

    Raises:
        InputError: The batch has more leading axes.
    """
    require(
        batch.row.ndim in (1, 2),
        "train_step takes a batch [B, ...] or [accumulation, B, ...], but `batch.row` has the shape "
        f"{[*batch.row.shape]}. To use an axis of devices, map the step with `parallel.map_train_step`.",
    )
    if batch.row.ndim == 1:
        batch = jax.tree.map(lambda x: x[None], batch)
    variables = dict(state.params)
    trained, frozen = parameters.split(variables.pop("params"), freeze)

    def summed_gradient(trained: Params, frozen: Params, variables: Params, step: Array, batch: Batch) -> Any:
        def gradient_of(variables: Params, micro_batch: Batch) -> tuple[Any, Params]:
            key = dropout_key(seed, step, micro_batch.row)
            (loss, (count, variables)), gradient = jax.value_and_grad(
                lambda trained: batch_loss(
                    model,
                    {"params": parameters.merge(trained, frozen), **variables},
                    micro_batch,
                    label_smoothing=label_smoothing,
                    dropout=key,
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
        source_tokens = model.axes.once(batch.source_mask.sum(dtype=jnp.float32))
        (gradient, loss, count), source_tokens = total((sums, source_tokens))
        return gradient, (loss, count, source_tokens, variables)

    gradient, (loss, count, source_tokens, variables) = shard(summed_gradient)(
        trained, frozen, variables, state.step, batch
    )
    gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), gradient)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, trained)
    updated: Any = optax.apply_updates(trained, updates)
    params = {"params": parameters.merge(updated, frozen), **variables}
    metrics = dict(zip(SUMS, (loss, count, source_tokens), strict=True))
    metrics |= norms(gradient, "gradient_norm") | norms(updates, "update_norm")
    updated_state = TrainState(state.step + 1, params, optimizer_state)
    if skip:
        finite = jnp.isfinite(jnp.stack([metrics[name] for name in FINITE])).all()
        skipped = state._replace(step=updated_state.step)
        updated_state = jax.tree.map(partial(jnp.where, finite), updated_state, skipped)
    return updated_state, metrics


def eval_step(
    params: Params,
    batch: Batch,
    *,
    model: Transformer,
    total: Callable[[Any], Any] = lambda tree: tree,
) -> Metrics:
    """The unsmoothed loss of a batch [B, ...] without dropout.

    Returns: Sums over the batch and the devices: the loss in nats, and the number of target tokens.
    """
    loss, (count, _) = batch_loss(model, params, batch)
    return total({"loss_sum": loss, "target_tokens": count})

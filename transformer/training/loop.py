"""The whole training run."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from transformer.checkpoint import Checkpoints, out_of_patience
from transformer.config import Config
from transformer.data.batches import Batches, iterate
from transformer.errors import DivergenceError
from transformer.model import Transformer
from transformer.shapes import Params
from transformer.training import parallel
from transformer.training.metrics import MetricsLog, Progress
from transformer.training.optimizer import learning_rate, make_optimizer
from transformer.training.step import TrainState, create_state, eval_step, train_step


def train(
    config: Config,
    train_batches: Batches,
    validation_batches: Batches | None,
    checkpoints: Checkpoints,
    *,
    dtype: str,
    evaluate: Callable[[Params], dict[str, float]] | None = None,
) -> None:
    """Trains to `config.training.steps`, from the last checkpoint if there is one, and leaves checkpoints behind.

    Args:
        config: the experiment.
        train_batches: the training pairs; the batch of step n is `train_batches[n]`.
        validation_batches: the validation pairs, one epoch; None for no validation.
        checkpoints: where the state is kept.
        dtype: the compute type, resolved.
        evaluate: further scores of the validation set (BLEU), by name, from parameters and statistics.

    Raises:
        DivergenceError: a loss or the gradient is not finite; the last good checkpoint is named.
    """
    training = config.training
    model = Transformer(config.model, dtype=jnp.dtype(dtype), axis_name=parallel.AXIS)
    optimizer = make_optimizer(config.optimizer, config.model.d_model, training.steps)
    rate = learning_rate(config.optimizer, config.model.d_model, training.steps)
    step_fn = parallel.map_train_step(
        partial(
            train_step,
            model=model,
            optimizer=optimizer,
            label_smoothing=training.label_smoothing,
            seed=config.seed,
            axis_name=parallel.AXIS,
        )
    )
    eval_fn = parallel.map_eval_step(partial(eval_step, model=model, axis_name=parallel.AXIS))

    state = create_state(model, optimizer, config.seed)
    first = checkpoints.latest() or 0
    if first:
        state = checkpoints.restore(first, state)
    state = parallel.replicate(state)

    window = {"loss_sum": 0.0, "target_tokens": 0.0, "source_tokens": 0.0}
    with (
        MetricsLog(Path(config.run_dir) / "metrics.jsonl", first) as log,
        Progress(training.steps, first) as progress,
    ):

        def has_checkpoint(step: int) -> bool:
            return step % training.validate_every == 0 or step == training.steps

        def require_finite(step: int, **values: float) -> None:
            if not all(map(math.isfinite, values.values())):
                checkpoints.wait()
                shown = " and ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
                raise DivergenceError(
                    f"Training has diverged: {shown} at step {step}. The last good checkpoint is "
                    f"{checkpoints.latest() or 'none'}. Lower the learning rate, raise optimizer.warmup_steps or set "
                    "optimizer.clip_norm, in a new run directory."
                )

        def account(step: int, metrics: dict) -> None:
            """Fetch one step's metrics, stop if they are not finite, and log the window where it is due.

            A window never spans a checkpoint, so that a resumed run logs what an uninterrupted one does.
            """
            values = {name: float(value) for name, value in metrics.items()}
            loss = values["loss_sum"] / max(values["target_tokens"], 1.0)
            require_finite(step, loss=loss, gradient_norm=values["gradient_norm"])
            for name in window:
                window[name] += values[name]
            if step % training.log_every == 0 or has_checkpoint(step):
                loss = window["loss_sum"] / window["target_tokens"]
                now = float(jnp.asarray(rate(step - 1)))
                tokens = window["target_tokens"] + window["source_tokens"]
                speed = progress.update(step, loss=loss, learning_rate=now, tokens=int(tokens))
                log.write(
                    step,
                    loss=loss,
                    learning_rate=now,
                    gradient_norm=values["gradient_norm"],
                    tokens_per_second=speed,
                )
                window.update(dict.fromkeys(window, 0.0))

        pending = None
        last = first if out_of_patience(checkpoints.best(), first, training) else training.steps
        for step, batch in enumerate(iterate(train_batches, first, last), start=first + 1):
            state, metrics = step_fn(state, parallel.split(batch, training.accumulation_steps))
            if pending is not None:
                account(*pending)  # one step late, so that the device never waits for the host
            pending = step, metrics
            if not has_checkpoint(step):
                continue

            account(*pending)
            pending, scores = None, {}
            if validation_batches is not None:
                scores["validation_loss"] = validate(eval_fn, state, validation_batches)
                require_finite(step, **scores)
                if evaluate is not None:
                    scores |= evaluate({"params": state.params, **state.batch_stats})
                log.write(step, **scores)
                shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items())
                progress.print(f"step {step:,}: {shown}")
            checkpoints.save(step, state, scores)
            if out_of_patience(checkpoints.best(), step, training):
                progress.print(f"Stopped: the last {training.patience} validations found no lower loss.")
                break
            progress.restart_clock()  # validating and saving are not training
    checkpoints.wait()


def validate(eval_fn: Callable, state: TrainState, batches: Batches) -> float:
    """The mean loss over one epoch in nats per target token, unsmoothed."""
    sums = [eval_fn(state.params, state.batch_stats, parallel.split(batches[n])) for n in range(batches.per_epoch)]
    total = jax.tree.map(lambda *values: float(np.sum([float(v) for v in values])), *sums)
    return total["loss_sum"] / total["target_tokens"]

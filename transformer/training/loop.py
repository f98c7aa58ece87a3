"""The training loop, with logging, validation, checkpoints and resuming."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from transformer import devices, parameters, processes
from transformer.checkpoint import Checkpoints
from transformer.config import Config
from transformer.counters import Counters
from transformer.data.batches import Batches, ahead
from transformer.interruption import Interrupted
from transformer.model import Transformer
from transformer.processes import check, checked
from transformer.shapes import Params
from transformer.stages import stage
from transformer.training import loggers, nonfinite, parallel
from transformer.training.mesh import MeshStrategy
from transformer.training.metrics import MetricsLog, Progress, truncate
from transformer.training.norms import by_layer
from transformer.training.optimizer import learning_rate, make_optimizer
from transformer.training.parallel import PmapStrategy
from transformer.training.profile import traced
from transformer.training.step import FINITE, SUMS, TrainState, configured, create_state, eval_step
from transformer.training.utilization import peak_flops, step_flops


def train(
    config: Config,
    train_batches: Batches,
    validation_batches: Batches | None,
    checkpoints: Checkpoints,
    *,
    dtype: str,
    initial: Params | None = None,
    evaluate: Callable[[Params], dict[str, float]] | None = None,
    profile: int | None = None,
    stop_after: int | None = None,
) -> None:
    """Trains up to step `config.training.steps`, resuming from the last checkpoint.

    Logging, validation and saving each have their own interval; the last step does all three. A deferred signal (see
    `interruption`) ends training after the current step, or during the validation that follows it, and leaves a
    `resume_only` checkpoint. If the signal came during a validation, the resumed run repeats that validation first.

    All processes of a job call this function. The first one writes the log, and a signal to any of them ends training
    in all of them after the same step.

    Args:
        config: The experiment.
        train_batches: The training pairs; step n + 1 uses `train_batches[n]`.
        validation_batches: One epoch of the validation pairs; None skips validation.
        checkpoints: Where the state is saved to and restored from.
        dtype: The compute dtype, `bfloat16` or `float32`.
        initial: The variables that training starts from if there is no checkpoint. None draws them from the seed.
        evaluate: Computes further validation scores (BLEU), by name. Called at each validation with the variables that
            `Transformer.apply` takes first.
        profile: Number of steps to trace for JAX's profiler, after the first two; None traces nothing.
        stop_after: Step after which to stop, with a `resume_only` checkpoint; None stops after the last step.

    Raises:
        DivergenceError: A validation loss is not finite; or a loss, a gradient or an update, and
            `training.max_skipped_steps` were skipped before. The message names the last good checkpoint.
        Interrupted: A deferred signal has arrived. The last completed step is saved.
    """
    training = config.training
    model = Transformer(config.model, dtype=jnp.dtype(dtype))
    optimizer = make_optimizer(config.optimizer, config.model.d_model, training.steps)
    rate = learning_rate(config.optimizer, config.model.d_model, training.steps)
    strategy = parallel.choose(config.parallel, config.model)
    own = model.clone(axes=strategy.axes)
    step = configured(config, own, optimizer)
    eval_fn = strategy.map_eval_step(partial(eval_step, model=own))

    def due(step: int, every: int) -> bool:
        return step % every == 0 or step == training.steps

    validate_every, save_every = training.validate_every, training.save_every or training.validate_every
    with stage("initializing the parameters"):
        drawn = parameters.draw(model, config.seed) if initial is None else initial
        state = strategy.create(lambda initial: create_state(model, optimizer, 0, initial, training.freeze), drawn)
        counters = Counters()
    step_fn = strategy.map_train_step(step, state)
    print(f"model: {parameters.count(state.params):,} parameters{_frozen(state.params, training.freeze)}")
    peak = peak_flops(devices.kinds(), dtype)
    S, T, rows = train_batches.shape
    positions = (S + T) * rows
    own_rows = strategy.rows(rows, training.accumulation_steps)
    shortest_step = None if peak is None else step_flops(config.model, S, T, rows) / peak
    first, unfinished = 0, False
    if checkpoints.latest() is not None:
        layout = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        with stage("restoring the last checkpoint"):
            first, state = checkpoints.restore_latest(layout)
        record = checkpoints.record(first)
        counters = record.counters
        # A signal came during the validation after this step.
        unvalidated = due(first, validate_every) and math.isinf(record.validation_loss)
        unfinished = record.resume_only and (unvalidated or due(first, save_every))

    if processes.is_first():
        truncate(Path(config.run_dir) / nonfinite.FILE, first)
    with (
        processes.in_first(logged(config, first, validated=not unfinished)) as log,
        Progress(training.steps, first, shortest_step=shortest_step) as progress,
    ):

        def record_step(counters: Counters, step: int, metrics: dict) -> Counters:
            """Fetches and checks the metrics of a step, and logs the mean loss, norms and padding if due.

            Returns: The counters including this step.

            Raises: DivergenceError if a metric is not finite, and no more such steps may be skipped.
            """
            loss_sum, target_tokens, source_tokens = (float(metrics[name]) for name in SUMS)
            progress.count(int(target_tokens + source_tokens))
            counters = counters.after_batch(target_tokens + source_tokens, positions)
            if all(math.isfinite(float(metrics[name])) for name in FINITE):
                counters = counters.after_update(loss_sum, target_tokens)
            else:
                counters = counters.after_skip()
                values, pairs = by_layer(jax.device_get(metrics)), train_batches.pairs(step - 1).tolist()
                what = nonfinite.record(config.run_dir, step, values, pairs)
                if counters.skipped_steps > training.max_skipped_steps:
                    raise nonfinite.diverged(checkpoints, step, what, nonfinite.SKIPPING)
                of = f"{counters.skipped_steps} of at most {training.max_skipped_steps}"
                progress.print(f"step {step:,}: skipped ({what}), {of}")
            if not (due(step, training.log_every) or due(step, validate_every)):
                return counters
            checkpoints.check()
            now = float(jnp.asarray(rate(step - counters.skipped_steps - 1)))
            speed = progress.update(step, loss=counters.loss, learning_rate=now)
            skipped = {"skipped_steps": counters.skipped_steps} if training.max_skipped_steps else {}
            norms = by_layer(jax.device_get({name: value for name, value in metrics.items() if name not in SUMS}))
            values = {"loss": counters.loss, "learning_rate": now, "padding": counters.padding, **skipped, **norms}
            if log is not None:
                log.write(step, **values, **speed)
            return counters.after_line()

        def validate_and_save(
            state: TrainState, step: int, counters: Counters, *, overdue: bool = False
        ) -> tuple[Counters, dict[str, float]]:
            """Validates and saves the state after a step, each if it is due.

            Returns: The counters including the validation, and the validation scores by name.
            """
            scores: dict[str, float] = {}
            with progress.pause():
                if due(step, validate_every) and validation_batches is not None:
                    with stage("validating", progress.print):
                        loss = validate(eval_fn, strategy, state, validation_batches)
                        scores["validation_loss"] = processes.of_first(loss)
                    if not math.isfinite(scores["validation_loss"]):
                        raise nonfinite.diverged(checkpoints, step, f"validation loss {scores['validation_loss']}")
                    counters = counters.after_validation(scores["validation_loss"])
                    if evaluate is not None:
                        with stage("translating the validation set", progress.print):
                            scores |= processes.of_first(evaluate(processes.on_host(state.params)))
                    if log is not None:
                        log.write(step, **scores)
                    shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items())
                    progress.print(f"step {step:,}: {shown.replace('bleu', 'BLEU')}")
                regular = due(step, save_every) or counters.out_of_patience(training.patience)
                if regular or overdue:
                    checkpoints.save(step, state, scores, counters, resume_only=not regular)
            return counters, scores

        def overdue(step: int) -> bool:
            """Whether to save because of `training.save_minutes`. Several processes ask this only when they log."""
            if training.save_minutes is None or (processes.number() > 1 and not due(step, training.log_every)):
                return False
            return processes.of_first(time.monotonic() - saved >= 60 * training.save_minutes)

        pending, made, scores = None, first, dict[str, float]()
        interrupted: Interrupted | None = None
        try:
            if 0 < first < training.steps:
                progress.print(f"resuming from step {first:,}")
            if unfinished:
                counters, scores = validate_and_save(state, first, counters, overdue=True)
            saved = time.monotonic()
            last = training.steps if stop_after is None else min(stop_after, training.steps)
            last = first if counters.out_of_patience(training.patience) else last
            wait = lambda: jax.block_until_ready(state)  # noqa: E731
            profiled = profile if processes.is_first() else None
            traces = Path(config.run_dir) / "profile"
            with (
                ahead(train_batches, first, last, own_rows) as batches,
                closing(traced(enumerate(batches, first + 1), profiled, traces, wait, progress.print)) as steps,
            ):
                for step, batch in steps:
                    check()
                    state, metrics = step_fn(state, strategy.split(batch, training.accumulation_steps))
                    made, scores = step, {}
                    if pending is not None:
                        counters = record_step(counters, *pending)  # one step late: the device never waits for the host
                    pending = step, metrics
                    late = overdue(step)
                    if not (late or due(step, validate_every) or due(step, save_every)):
                        continue
                    counters, pending = record_step(counters, *pending), None
                    counters, scores = validate_and_save(state, step, counters, overdue=late)
                    if checkpoints.latest() == step:
                        saved = time.monotonic()
                    if counters.out_of_patience(training.patience):
                        progress.print(
                            f"Stopping early: the last {training.patience} validations did not lower the validation "
                            "loss (--training.patience)."
                        )
                        break
        except Interrupted as error:
            interrupted = error
        if pending is not None:
            counters = record_step(counters, *pending)
        if made and checkpoints.latest() != made:
            checkpoints.save(made, state, scores, counters, resume_only=True)
        if interrupted is not None:
            raise interrupted
    checkpoints.wait()


def _frozen(params: Params, freeze: Sequence[str]) -> str:
    """The end of a sentence that counts the frozen parameters, empty without any."""
    _, frozen = parameters.split(params["params"], freeze)
    return f", {parameters.count({'params': frozen}):,} of them frozen" if frozen else ""


@contextmanager
def logged(config: Config, step: int, *, validated: bool) -> Iterator[MetricsLog]:
    """Opens `metrics.jsonl` and the loggers of a config. The arguments are those of `MetricsLog`."""
    file = Path(config.run_dir) / "metrics.jsonl"
    with loggers.opened(config) as writes, MetricsLog(file, step, validated=validated, loggers=writes) as log:
        yield log


def validate(eval_fn: Callable, strategy: PmapStrategy | MeshStrategy, state: TrainState, batches: Batches) -> float:
    """The mean unsmoothed loss over one epoch, in nats per target token.

    Raises:
        Interrupted: A deferred signal has arrived.
    """
    numbers, rows = checked(range(batches.per_epoch)), strategy.rows(batches.shape[2])
    sums = [eval_fn(state.params, strategy.split(batches.part(n, rows))) for n in numbers]
    total = jax.tree.map(lambda *values: float(np.sum([float(v) for v in checked(values)])), *sums)
    return total["loss_sum"] / total["target_tokens"]

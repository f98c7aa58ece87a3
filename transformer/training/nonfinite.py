"""Steps whose loss, gradient or update is not finite: how they are recorded, and how they end a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer import processes
from transformer.checkpoint import Checkpoints
from transformer.errors import DivergenceError
from transformer.training.metrics import MetricsLog

FILE = "nonfinite.jsonl"  # in the run directory
SKIPPING = " To skip such steps, resume with a larger --training.max-skipped-steps."


def record(run_dir: str | Path, step: int, values: Mapping[str, float], pairs: Sequence[Any]) -> str:
    """Appends a step to `nonfinite.jsonl`, in the first process.

    A value that is not finite is written as text (`nan`, `inf`, `-inf`), because JSON has no such numbers. Lines of
    this step and later ones are replaced, because a resumed run may come to the same step again.

    Args:
        run_dir: The run directory.
        step: The step.
        values: Sums and norms of the step, by name. The loss is the sum over target tokens.
        pairs: Lines or rows of the batch's sentence pairs in their file, counted from 1 (see `Batches.pairs`).

    Returns: The mean loss and the norms as a part of a message.
    """
    loss = values["loss_sum"] / max(values["target_tokens"], 1.0)
    norms = {name: value for name, value in values.items() if name.startswith(("gradient_norm", "update_norm"))}
    if processes.is_first():
        written = {name: x if math.isfinite(x) else str(x) for name, x in {"loss": loss, **norms}.items()}
        with MetricsLog(Path(run_dir) / FILE, step - 1) as log:
            log.write(step, **written, pairs=pairs)
    return f"loss {loss}, gradient norm {norms['gradient_norm']}, update norm {norms['update_norm']}"


def diverged(checkpoints: Checkpoints, step: int, what: str, advice: str = "") -> DivergenceError:
    """Makes the error that ends a run, once the checkpoint being written is complete.

    Args:
        checkpoints: The run's checkpoints; the message names the last one.
        step: The step at which a value was not finite.
        what: The values.
        advice: A further sentence for the end of the message.
    """
    checkpoints.wait()
    last = checkpoints.latest()
    kept = "There is no earlier checkpoint" if last is None else f"The last good checkpoint is step {last}"
    return DivergenceError(
        f"Training diverged at step {step} ({what}). {kept}. Lower the learning rate, raise --optimizer.warmup-steps "
        f"or set --optimizer.clip-norm, and train with a new --run-dir.{advice}"
    )

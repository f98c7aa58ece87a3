"""What is known of the checkpoints of a run without reading their arrays."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orbax.checkpoint as ocp

from transformer.counters import Counters
from transformer.manifest import damaged_files, has_manifest

# Orbax logs routine messages through absl, which prints them to stderr. Failures are raised as exceptions as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)

CHECKPOINTS = "checkpoints"  # in the run directory
METRICS = "metrics"  # orbax's folder for the metrics of a checkpoint
LAYOUT = 2  # of the parameters; version 0.1 wrote no number, and each layer was a module of its own


class Record(NamedTuple):
    """A checkpoint's metadata, which is known without reading its arrays.

    step: Number of updates made.
    validation_loss: In nats per target token; infinity if this step was not validated, or its metrics are damaged.
    fingerprint: Fingerprint of the tokenizer; None if the metadata is damaged.
    layout: Layout of the parameters: `LAYOUT`, or 1 for version 0.1.
    resume_only: Whether it was saved outside the regular interval, to lose less work. Such a checkpoint is never
        evaluated or averaged, and the next save deletes it.
    has_manifest: Whether it was saved with a manifest (see `manifest.py`). Earlier versions wrote none.
    counters: The counters of the training loop.
    """

    step: int
    validation_loss: float
    fingerprint: str | None = None
    layout: int = LAYOUT
    resume_only: bool = False
    has_manifest: bool = False
    counters: Counters = Counters()


def records(run_dir: str | Path) -> list[Record]:
    """The metadata of all checkpoints of a run, in ascending order of their steps.

    It is compared with the checkpoint's manifest; the arrays are not.
    """
    options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0, lightweight_initialize=True
    )
    found: list[Record] = []
    with ocp.CheckpointManager(Path(run_dir).resolve() / CHECKPOINTS, options=options) as manager:
        for step in manager.all_steps():
            about, loss = _read(manager, step)
            if "fingerprint" not in about:  # every version writes it, so the metadata is damaged
                if _folder(manager, step).exists():  # else the process that trains has deleted it in the meantime
                    found.append(Record(step, loss))
                continue
            counted = about.pop("counters", None)
            if counted is None:  # written by an earlier version, which saved at every validation and only then
                counters = found[-1].counters if found else Counters()
                counters = counters.after_validation(loss) if math.isfinite(loss) else counters
            else:
                counters = Counters(**counted)
            found.append(Record(step, loss, **{"layout": 1, **about}, counters=counters))
    return found


def _folder(manager: ocp.CheckpointManager, step: int) -> Path:
    return Path(manager.directory) / str(step)


def _read(manager: ocp.CheckpointManager, step: int) -> tuple[dict, float]:
    """The metadata and the validation loss of a checkpoint: empty and infinite where they are damaged."""
    folder, about, loss = _folder(manager, step), {}, math.inf
    damaged = damaged_files(folder, [METRICS]) if has_manifest(folder) else []
    try:
        if not any(name.startswith(f"{METRICS}/") for name in damaged):
            loss = validation_loss(manager.metrics(step))
        if not damaged:
            about = dict(manager.metadata(step).custom_metadata or {})
    except (ValueError, OSError):
        return {}, loss
    lost = about.get("has_manifest") and not has_manifest(folder)
    return ({} if lost else about), loss


def validation_loss(metrics: Mapping[str, float] | None) -> float:
    """The validation loss in a checkpoint's metrics; infinity if it is not finite."""
    value = (metrics or {}).get("validation_loss", math.inf)
    return value if math.isfinite(value) else math.inf


def best(checkpoints: Sequence[Record]) -> int | None:
    """The step of lowest validation loss, the later one of equals; else the last step."""
    return min(checkpoints, key=lambda record: (record.validation_loss, -record.step)).step if checkpoints else None

"""What is known of the checkpoints of a run without reading their arrays.

Orbax wrote these files, which are JSON. They are read without it, because importing orbax and JAX takes seconds.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer.counters import Counters
from transformer.manifest import damaged_files, has_manifest

CHECKPOINTS = "checkpoints"  # in the run directory
METRICS = "metrics"  # orbax's folder for the metrics of a checkpoint, and its file in there
METADATA = "_CHECKPOINT_METADATA"  # orbax's file
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
    found: list[Record] = []
    for folder in _folders(Path(run_dir) / CHECKPOINTS):
        about, loss = _read(folder)
        if "fingerprint" not in about:  # every version writes it, so the metadata is damaged
            if folder.exists():  # else the process that trains has deleted it in the meantime
                found.append(Record(int(folder.name), loss))
            continue
        counted = about.pop("counters", None)
        if counted is None:  # written by an earlier version, which saved at every validation and only then
            counters = found[-1].counters if found else Counters()
            counters = counters.after_validation(loss) if math.isfinite(loss) else counters
        else:
            counters = Counters(**counted)
        found.append(Record(int(folder.name), loss, **{"layout": 1, **about}, counters=counters))
    return found


def _folders(checkpoints: Path) -> list[Path]:
    """The folders of complete checkpoints by their steps. Incomplete ones have other names than a step."""
    steps = (folder for folder in checkpoints.glob("*") if folder.name.isdecimal() and folder.is_dir())
    return sorted(steps, key=lambda folder: int(folder.name))


def _read(folder: Path) -> tuple[dict[str, Any], float]:
    """The metadata and the validation loss of a checkpoint: empty and infinite where they are damaged."""
    about, loss = {}, math.inf
    damaged = damaged_files(folder, [METRICS]) if has_manifest(folder) else []
    try:
        if not any(name.startswith(f"{METRICS}/") for name in damaged):
            loss = validation_loss(_json(folder / METRICS / METRICS))
        if not damaged:
            about = dict(_json(folder / METADATA)["custom_metadata"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
        return {}, loss
    lost = about.get("has_manifest") and not has_manifest(folder)
    return ({} if lost else about), loss


def saved_at(folder: Path) -> float | None:
    """When a checkpoint was saved, in seconds since 1970; None if its metadata is damaged."""
    try:
        return float(_json(folder / METADATA)["commit_timestamp_nsecs"]) / 1e9
    except (ValueError, TypeError, KeyError, RecursionError, OSError):
        return None


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def validation_loss(metrics: Mapping[str, float] | None) -> float:
    """The validation loss in a checkpoint's metrics; infinity if it is not finite."""
    value = (metrics or {}).get("validation_loss", math.inf)
    return value if math.isfinite(value) else math.inf


def best(checkpoints: Sequence[Record]) -> int | None:
    """The step of lowest validation loss, the later one of equals; else the last step."""
    return min(checkpoints, key=lambda record: (record.validation_loss, -record.step)).step if checkpoints else None

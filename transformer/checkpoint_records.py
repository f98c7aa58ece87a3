"""What is known of the checkpoints of a run without reading their arrays.

Orbax wrote these files, which are JSON. They are read without it, because importing orbax and JAX takes seconds.
"""

import json
import math
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer.config.bounds import fits
from transformer.counters import Counters
from transformer.files import LARGEST_JSON, read_regular
from transformer.manifest import damaged_files, has_manifest

CHECKPOINTS = "checkpoints"  # in the run directory
METRICS = "metrics"  # orbax's folder for the metrics of a checkpoint, and its file in there
METADATA = "_CHECKPOINT_METADATA"  # orbax's file
LAYOUT = 2  # of the parameters; version 0.1 wrote no number, and each layer was a module of its own
# What reading a damaged file raises, here and in orbax.
_DAMAGE = (ValueError, OSError, TypeError, AttributeError, KeyError, RecursionError)


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
        if not about:
            if folder.exists():  # else the process that trains has deleted it in the meantime
                found.append(Record(int(folder.name), loss))
            continue
        if "counters" not in about:  # written by an earlier version, which saved at every validation and only then
            counters = found[-1].counters if found else Counters()
            about["counters"] = counters.after_validation(loss) if math.isfinite(loss) else counters
        found.append(Record(**{**about, "step": int(folder.name), "validation_loss": loss}))
    return found


def _folders(checkpoints: Path) -> list[Path]:
    """The folders of complete checkpoints by their steps. Incomplete ones have other names than a step."""
    steps = (folder for folder in checkpoints.glob("*") if folder.name.isdecimal() and folder.is_dir())
    return sorted(steps, key=lambda folder: int(folder.name))


def _read(folder: Path) -> tuple[dict[str, Any], float]:
    """The fields of a checkpoint's record, and its validation loss: empty and infinite where they are damaged."""
    about, loss = {}, math.inf
    damaged = damaged_files(folder, [METRICS]) if has_manifest(folder) else []
    try:
        if not any(name.startswith(f"{METRICS}/") for name in damaged):
            loss = validation_loss(_json(folder / METRICS / METRICS))
        if not damaged:
            about = _record_fields(_json(folder / METADATA)["custom_metadata"])
    except _DAMAGE:
        return {}, loss
    lost = about.get("has_manifest") and not has_manifest(folder)
    return ({} if lost else about), loss


def saved_at(folder: Path) -> float | None:
    """When a checkpoint was saved, in seconds since 1970; None if its metadata is damaged."""
    try:
        return float(_json(folder / METADATA)["commit_timestamp_nsecs"]) / 1e9
    except _DAMAGE:
        return None


def _json(file: Path) -> Any:
    return json.loads(read_regular(file, LARGEST_JSON))


def _record_fields(metadata: Any) -> dict[str, Any]:
    """The fields of a record in a checkpoint's metadata, with layout 1 if it has none, as in version 0.1.

    Raises: One of `_DAMAGE` if a field has another type, or the fingerprint is missing, which every version writes.
    """
    about = _fields(Record, {name: value for name, value in metadata.items() if name != "counters"})
    if metadata.get("counters") is not None:
        about["counters"] = Counters(**_fields(Counters, metadata["counters"]))
    return {"layout": 1, "fingerprint": about["fingerprint"], **about}


def _fields(kind: type[Record] | type[Counters], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a named tuple's fields. A later version may have written further ones, which are left out."""
    hints = typing.get_type_hints(kind)
    known = {name: value for name, value in values.items() if name in hints}
    if wrong := [name for name, value in known.items() if not fits(value, hints[name])]:
        raise ValueError(f"{wrong[0]} has another type")
    return known


def validation_loss(metrics: Mapping[str, float] | None) -> float:
    """The validation loss in a checkpoint's metrics; infinity if it is not finite."""
    value = (metrics or {}).get("validation_loss", math.inf)
    return value if fits(value, float) and math.isfinite(value) else math.inf


def best(checkpoints: Sequence[Record]) -> int | None:
    """The step of lowest validation loss, the later one of equals; else the last step."""
    return min(checkpoints, key=lambda record: (record.validation_loss, -record.step)).step if checkpoints else None

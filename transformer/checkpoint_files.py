"""Reads and writes the files of checkpoints with orbax.

A checkpoint records no device or sharding, so it can be restored into host memory or with any sharding.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from transformer.errors import InputError
from transformer.run_dir import CHECKPOINTS, Record, best, records, validation_loss


class UnreadableCheckpointError(InputError):
    """A checkpoint is damaged, or was deleted by the process that trains.

    Attributes:
        step: The step of the checkpoint.
    """

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class Preservation:
    """Keeps the last regular checkpoints, the best one, and the last one of any kind."""

    def __init__(self, known: Mapping[int, Record], keep_last: int) -> None:
        self._known, self._keep_last = known, keep_last

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        every = [self._known[info.step] for info in checkpoints]
        regular = [record for record in every if not record.resume_only]
        kept = {best(regular), every[-1].step, *(record.step for record in regular[-self._keep_last :])}
        return [record.step in kept for record in every]


def open_manager(run_dir: str | Path, **options: Any) -> ocp.CheckpointManager:
    """Opens orbax's checkpoint manager for a run.

    Args:
        run_dir: The run directory.
        options: Fields of orbax's `CheckpointManagerOptions`.

    Raises: InputError if the metrics of a checkpoint are damaged.
    """
    directory = Path(run_dir).resolve() / CHECKPOINTS
    # Without best_fn, orbax does not write the metrics.
    try:
        return ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(best_fn=validation_loss, best_mode="min", **options),
            item_handlers={"params": _handler(), "rest": _handler()},
        )
    except ValueError as error:  # orbax reads the metrics of all checkpoints
        damaged = ", ".join(str(record.step) for record in records(run_dir) if record.fingerprint is None)
        raise InputError(
            f"Cannot open {directory}: the metrics of the checkpoint of step {damaged} are damaged. Move that "
            "checkpoint to another folder."
        ) from error


def _handler() -> ocp.PyTreeCheckpointHandler:
    # By default, orbax records shardings, and compiles a program per shape and device to slice replicated arrays.
    arrays = type_handlers.ArrayHandler(use_replica_parallel=False, enable_write_sharding_file=False)
    registry = type_handlers.create_type_handler_registry(
        (int, type_handlers.ScalarHandler()), (np.ndarray, type_handlers.NumpyHandler()), (jax.Array, arrays)
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def items_of(state: Any) -> dict[str, dict[str, Any]]:
    """Splits a state into the two items of a checkpoint.

    `params` is what evaluation needs, and `rest` what resuming needs as well; each can be read without the other. On
    disk, variables other than parameters are under `batch_stats`, as in every earlier version.
    """
    rest = state._asdict()
    others = dict(rest.pop("params"))
    return {"rest": rest, "params": {"params": others.pop("params"), "batch_stats": others}}


def state_of(items: dict[str, Any], kind: Callable[..., Any]) -> Any:
    """Builds a state of type `kind` from the items of a checkpoint."""
    return kind(params=variables_of(items["params"]), **items["rest"])


def variables_of(item: dict[str, Any]) -> dict[str, Any]:
    """The variables that `Transformer.apply` takes first, from the item `params`."""
    return {"params": item["params"], **item["batch_stats"]}


def read(manager: ocp.CheckpointManager, step: int, items: dict[str, Any] | None = None) -> dict[str, Any]:
    """Reads the items of a checkpoint.

    Args:
        manager: As `open_manager` returns it.
        step: Step of the checkpoint.
        items: What to read, with leaves as `Checkpoints.restore` describes them. None reads the item `params` into
            NumPy arrays.

    Raises: UnreadableCheckpointError if the checkpoint is damaged or missing.
    """

    def arguments(leaf: Any) -> ocp.RestoreArgs:
        sharding = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None
        return ocp.RestoreArgs(restore_type=np.ndarray) if sharding is None else ocp.ArrayRestoreArgs(sharding=sharding)

    _ignore_closed_loops()
    try:
        if items is None:
            metadata = manager.item_metadata(step)["params"]
            if metadata is None:
                raise _damaged(manager, step)
            items = {"params": metadata.tree}
        restore = {
            name: ocp.args.PyTreeRestore(item, restore_args=jax.tree.map(arguments, item))
            for name, item in items.items()
        }
        return dict(manager.restore(step, args=ocp.args.Composite(**restore)).items())
    except UnreadableCheckpointError:
        raise
    except Exception as error:
        # Orbax raises any of these when a file is damaged.
        if not isinstance(error, ValueError | KeyError | OSError) and type(error) is not Exception:
            raise
        raise _damaged(manager, step) from error


@cache
def _ignore_closed_loops() -> None:
    """Suppresses the tracebacks of orbax when it fails to read several arrays.

    Orbax 0.12 closes its event loop at the first failure, and each further failure would print a traceback.
    """
    before = sys.unraisablehook

    def unraisable(unraised: Any) -> None:
        if str(unraised.exc_value) != "Event loop is closed":
            before(unraised)

    sys.unraisablehook = unraisable


def _damaged(manager: ocp.CheckpointManager, step: int) -> UnreadableCheckpointError:
    others = ", ".join(str(other) for other in manager.all_steps() if other != step) or "none"
    return UnreadableCheckpointError(
        step,
        f"The checkpoint of step {step} in {manager.directory} is damaged and cannot be read. Checkpoints of other "
        f"steps: {others}.",
    )


def check_fingerprint(manager: ocp.CheckpointManager, record: Record, fingerprint: str) -> None:
    """Raises InputError if a checkpoint has another tokenizer or damaged metadata."""
    if record.fingerprint is None:  # every version writes one
        raise _damaged(manager, record.step)
    if record.fingerprint != fingerprint:
        raise InputError(
            f"The checkpoint of step {record.step} in {manager.directory} was trained with another tokenizer than the "
            "tokenizer.json of its run directory. Restore the file that the run wrote."
        )

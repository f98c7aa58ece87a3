"""Reads and writes the files of checkpoints with orbax.

A checkpoint records no device or sharding, so it can be restored into host memory or with any sharding. It gets a
manifest before it gets its name, and whatever is read is compared with the manifest first.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from transformer.checkpoint_records import CHECKPOINTS, Record, best, validation_loss
from transformer.errors import InputError
from transformer.manifest import damaged_files, has_manifest, write_manifest

# Orbax logs routine messages through absl, which prints them to stderr. Failures are raised as exceptions as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class UnreadableCheckpointError(InputError):
    """A checkpoint is damaged, or was deleted by the process that trains.

    Attributes:
        step: The step of the checkpoint.
    """

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class Sealed(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A checkpoint being written, which gets its manifest before it gets its name.

    Orbax writes its last files just before it renames the temporary folder. It is therefore given another temporary
    name to rename to. A process that is killed leaves a temporary folder, never a checkpoint without a manifest.
    """

    @classmethod
    def from_final(cls, final_path: Any, **options: Any) -> Any:
        if ocp.path.atomicity.TMP_DIR_SUFFIX in final_path.parent.name:  # an item of a checkpoint being written
            return ocp.path.atomicity.AtomicRenameTemporaryPath.from_final(final_path, **options)
        return super().from_final(final_path.with_name(final_path.name + _UNSEALED), **options)

    def get_final(self) -> Any:
        unsealed = super().get_final()
        return unsealed.with_name(unsealed.name.removesuffix(_UNSEALED))

    async def finalize(self) -> None:
        await super().finalize()
        unsealed = Path(super().get_final())
        await asyncio.to_thread(write_manifest, unsealed)
        os.rename(unsealed, self.get_final())


_UNSEALED = f"{ocp.path.atomicity.TMP_DIR_SUFFIX}-unsealed"


class Preservation:
    """Keeps the last regular checkpoints, the best one, and the last one of any kind."""

    def __init__(self, known: Mapping[int, Record], keep_last: int) -> None:
        self._known, self._keep_last = known, keep_last

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        every = [self._known[info.step] for info in checkpoints]
        regular = [record for record in every if not record.resume_only]
        kept = {best(regular), every[-1].step, *(record.step for record in regular[-self._keep_last :])}
        return [record.step in kept for record in every]


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves it to `processes.check` when several processes stop."""

    def reached_preemption(self, step: int) -> bool:
        """Returns False. Asking JAX would overwrite the number of checks with the number of training steps."""
        return False


def open_manager(run_dir: str | Path, **options: Any) -> ocp.CheckpointManager:
    """Opens orbax's checkpoint manager for a run.

    Args:
        run_dir: The run directory.
        options: Fields of orbax's `CheckpointManagerOptions`.
    """
    # Without best_fn, orbax does not write the metrics. With lightweight_initialize it reads none, so damaged ones do
    # no harm.
    return _Manager(
        Path(run_dir).resolve() / CHECKPOINTS,
        options=ocp.CheckpointManagerOptions(
            best_fn=validation_loss,
            best_mode="min",
            lightweight_initialize=True,
            temporary_path_class=Sealed,
            # Otherwise a folder that cannot be created, as on a read-only disk, is reported after 300 s of waiting.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            **options,
        ),
        item_handlers={"params": _handler(), "rest": _handler()},
    )


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


def damaged_parts(manager: ocp.CheckpointManager, step: int, items: Collection[str]) -> list[str]:
    """Returns the files of a checkpoint that are not what its manifest says, or [] if it has none.

    Args:
        manager: As `open_manager` returns it.
        step: Step of the checkpoint.
        items: The names of the items whose files are compared.
    """
    folder = Path(manager.directory) / str(step)
    return damaged_files(folder, items) if has_manifest(folder) else []


def read(
    manager: ocp.CheckpointManager,
    step: int,
    items: Mapping[str, Any] | Sequence[str] = ("params",),
    *,
    verified: bool = False,
) -> dict[str, Any]:
    """Reads the items of a checkpoint, after comparing their files with the manifest.

    Args:
        manager: As `open_manager` returns it.
        step: Step of the checkpoint.
        items: What to read: trees by the names of the items, with leaves as `Checkpoints.restore` describes them, or
            the names alone to read NumPy arrays.
        verified: Whether the files have been compared already.

    Raises: UnreadableCheckpointError if the checkpoint is damaged or missing.
    """

    def arguments(leaf: Any) -> ocp.RestoreArgs:
        sharding = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None
        return ocp.RestoreArgs(restore_type=np.ndarray) if sharding is None else ocp.ArrayRestoreArgs(sharding=sharding)

    if not verified and (damaged := damaged_parts(manager, step, [*items])):
        raise _damaged(manager, step, damaged)
    ignore_closed_loops()
    try:
        if not isinstance(items, Mapping):
            items = {name: _handler().metadata(manager.directory / str(step) / name).tree for name in items}
        restore = {
            name: ocp.args.PyTreeRestore(item, restore_args=jax.tree.map(arguments, item))
            for name, item in items.items()
        }
        return dict(manager.restore(step, args=ocp.args.Composite(**restore)).items())
    except Exception as error:
        # Orbax raises any of these when a file is damaged.
        if not isinstance(error, ValueError | KeyError | OSError) and type(error) is not Exception:
            raise
        raise _damaged(manager, step) from error


@cache
def ignore_closed_loops() -> None:
    """Suppresses the tracebacks of orbax when it fails to read or write several arrays.

    Orbax 0.12 closes its event loop at the first failure, and each further failure would print a traceback. The first
    one is raised as an exception as well.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    before = sys.unraisablehook

    def unraisable(unraised: Any) -> None:
        if str(unraised.exc_value) != "Event loop is closed":
            before(unraised)

    sys.unraisablehook = unraisable


def _damaged(manager: ocp.CheckpointManager, step: int, files: Sequence[str] = ()) -> UnreadableCheckpointError:
    others = ", ".join(str(other) for other in manager.all_steps() if other != step) or "none"
    which = f" ({files[0]}{f' and {len(files) - 1} other files' if len(files) > 1 else ''})" if files else ""
    return UnreadableCheckpointError(
        step,
        f"The checkpoint of step {step} in {manager.directory} is damaged{which} and cannot be read. Checkpoints of "
        f"other steps: {others}.",
    )


def check_fingerprint(manager: ocp.CheckpointManager, record: Record, fingerprint: str | None) -> None:
    """Raises InputError if a checkpoint has damaged metadata or another tokenizer; None skips the second check."""
    if record.fingerprint is None:  # every version writes one
        raise _damaged(manager, record.step)
    if fingerprint not in (None, record.fingerprint):
        raise InputError(
            f"The checkpoint of step {record.step} in {manager.directory} was trained with another tokenizer than the "
            "tokenizer.json of its run directory. Restore the file that the run wrote."
        )

"""Saves and restores the arrays of checkpoints.

    RUN/checkpoints/STEP/params   what evaluation needs
    RUN/checkpoints/STEP/rest     what resuming needs as well
    RUN/checkpoints/STEP/...      the fields of a `Record`, in orbax's files for metrics and metadata

A checkpoint records no device or sharding, so it can be restored into host memory or with any sharding.
"""

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from transformer import processes
from transformer.checkpoint_files import (
    Preservation,
    UnreadableCheckpointError,
    check_fingerprint,
    damaged_parts,
    ignore_closed_loops,
    items_of,
    open_manager,
    read,
    state_of,
)
from transformer.checkpoint_records import LAYOUT, Record, records, validation_loss
from transformer.counters import Counters
from transformer.errors import InputError
from transformer.run_dir import DAMAGED, not_written

UNVERIFIED = "No checksums were saved with {}, so damage may go unnoticed."  # by an earlier version


class Checkpoints:
    """The checkpoints of a run that is being trained.

    They are written in the background. The last ones and the best one are kept.
    """

    def __init__(self, run_dir: str | Path, keep_last: int, fingerprint: str) -> None:
        """Opens the checkpoints, and deletes any that a crash left incomplete.

        Args:
            run_dir: The run directory.
            keep_last: Number of regular checkpoints to keep, in addition to the best one.
            fingerprint: Fingerprint of the tokenizer. It is saved with each checkpoint and checked on restoring.
        """
        self._fingerprint = fingerprint
        self._records = {record.step: record for record in records(run_dir)}
        self._manager = open_manager(
            run_dir, preservation_policy=Preservation(self._records, keep_last), cleanup_tmp_directories=True
        )

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, float],
        counters: Counters | None = None,
        *,
        resume_only: bool = False,
    ) -> None:
        """Starts saving a checkpoint, after waiting for the previous one to complete.

        The caller may donate the state afterwards. One copy of it stays in memory until the checkpoint is written. On a
        CPU, where orbax holds references to the buffers, the next step makes this copy: XLA copies a donated buffer
        that is still referenced instead of overwriting it.

        Args:
            step: Number of updates made.
            state: A named tuple of pytrees of arrays. Its field `params` is what `Transformer.apply` takes first; the
                other fields are only needed to resume.
            metrics: Saved with the checkpoint. The checkpoint with the lowest `validation_loss` is the best one.
            counters: Saved with the checkpoint, to resume the training loop.
            resume_only: As in `Record`.

        Raises:
            InputError: The disk has too little space or cannot be written to, or the previous save failed.
            RuntimeError: A later checkpoint exists, or a regular one of this step.
        """
        latest = self.latest()
        replaces = latest == step and self._records[step].resume_only
        if latest is not None and latest >= step and not replaces:
            raise RuntimeError(f"Cannot save step {step}: a checkpoint of step {latest} exists.")
        items = items_of(state)
        leaves = jax.tree.leaves(jax.eval_shape(lambda: items))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        processes.by_first(partial(self._require_space, step, size))
        counters = counters or Counters()
        about: dict[str, Any] = {"fingerprint": self._fingerprint, "layout": LAYOUT, "resume_only": resume_only}
        about["has_manifest"] = True
        self._records[step] = Record(step, validation_loss(metrics), **about, counters=counters)
        about["counters"] = counters._asdict()
        arguments = ocp.args.Composite(**{name: ocp.args.PyTreeSave(item) for name, item in items.items()})
        ignore_closed_loops()
        with self._writing():
            if replaces:
                self._manager.wait_until_finished()
                self._manager.delete(step)
            self._manager.save(step, args=arguments, metrics=dict(metrics), custom_metadata=about)

    def _require_space(self, step: int, size: int) -> None:
        with self._writing():
            free = shutil.disk_usage(self._manager.directory).free
        if free < size:
            raise InputError(
                f"Cannot save the checkpoint of step {step}: it needs {size / 1e6:,.1f} MB, but only "
                f"{free / 1e6:,.1f} MB are free in {self._manager.directory}. Free some space and run the same command "
                "again; it resumes from the last checkpoint."
            )

    def restore(self, step: int, state: Any, *, verified: bool = False) -> Any:
        """Restores the state that was saved at a step.

        Args:
            step: Step of a checkpoint.
            state: A state of the same structure; only the shapes and dtypes of its leaves are used. A leaf that is a
                `jax.ShapeDtypeStruct` with a sharding is restored as a `jax.Array` with that sharding, any other leaf
                as a NumPy array.
            verified: Whether its files have been compared with their manifest already.

        Returns: A state of the same type as the argument.

        Raises: InputError if the checkpoint is damaged or was saved with another tokenizer, or if the shape or dtype of
            an array differs.
        """
        self.wait()
        check_fingerprint(self._manager, self._records[step], self._fingerprint)
        items = items_of(state)
        restored = read(self._manager, step, items, verified=verified)
        for (path, expected), found in zip(
            jax.tree_util.tree_leaves_with_path(items), jax.tree.leaves(restored), strict=True
        ):
            if (found.shape, found.dtype) != (expected.shape, expected.dtype):  # orbax would cast silently
                raise InputError(
                    f"The checkpoint of step {step} does not fit this config: {jax.tree_util.keystr(path)} is "
                    f"{found.dtype}{list(found.shape)} in the checkpoint, but {expected.dtype}{list(expected.shape)} "
                    "was expected. Give another --run-dir."
                )
        return state_of(restored, type(state))

    def restore_latest(self, state: Any, say: Callable[[str], None] = print) -> tuple[int, Any]:
        """Restores the last readable checkpoint, regular or not.

        Later checkpoints, which are damaged, and earlier ones with damaged metadata are moved to `RUN/damaged`, so that
        their steps can be saved again. Only the process that holds the run may call this method.

        Args:
            state: As in `restore`.
            say: Prints which checkpoints were moved, and where. Also prints whether the restored one has no manifest.

        Returns: The step of the checkpoint, and its state as `restore` returns it.

        Raises: InputError if no checkpoint can be read, or as `restore` does.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:  # the first process compares the files with the manifest, for all
                intact = processes.of_first(not processes.is_first() or not self._damaged_parts(step, state))
                restored = self.restore(step, state, verified=True) if intact else None
            except UnreadableCheckpointError:
                restored = None
            if not all(processes.gathered(restored is not None)):
                damaged.append(step)
                continue
            damaged += [other for other, record in self._records.items() if other < step and record.fingerprint is None]
            for other in damaged:
                moved = processes.by_first(partial(self._set_aside, other))
                say(f"The checkpoint of step {other:,} is damaged. It was moved to {moved}.")
            if damaged:
                self._manager.reload()
            if not self._records[step].has_manifest:
                say(UNVERIFIED.format(f"the checkpoint of step {step:,}"))
            return step, restored
        raise InputError(
            f"No checkpoint in {self._manager.directory} can be read. Restore one from a backup, or give another "
            "--run-dir."
        )

    def _damaged_parts(self, step: int, state: Any) -> list[str]:
        self.wait()
        return damaged_parts(self._manager, step, [*items_of(state)])

    def _set_aside(self, step: int) -> Path:
        source = Path(self._manager.directory) / str(step)
        folder = source.parents[1] / DAMAGED
        folder.mkdir(exist_ok=True)
        target = next(path for path in (folder / f"{step}{'+' * n}" for n in count()) if not path.exists())
        source.rename(target)
        return target

    def record(self, step: int) -> Record:
        """The metadata of a checkpoint."""
        return self._records[step]

    def latest(self) -> int | None:
        """The step of the last checkpoint, regular or not; None without any."""
        return self._manager.latest_step()

    def check(self) -> None:
        """Raises InputError if the last checkpoint could not be written, without waiting for it."""
        if not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits until the last checkpoint is complete.

        Raises: InputError if it could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, and stops the background threads."""
        with self._writing():
            self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            if isinstance(error, ValueError) and "Error writing" not in str(error):
                raise
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # of orbax, on exit
            code = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore raises ValueError
            number = int(code[1]) if code else getattr(error, "errno", None)
            reason = os.strerror(number) if number else str(error).splitlines()[0]
            raise InputError(not_written(Path(self._manager.directory).parent, reason)) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

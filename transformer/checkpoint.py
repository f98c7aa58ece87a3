"""The arrays of checkpoints: to disk and back into any layout, and the mean of several.

    RUN/checkpoints/STEP/params   what evaluation needs
    RUN/checkpoints/STEP/rest     what resuming needs besides
    RUN/checkpoints/STEP/...      what a `Record` says, in orbax's files of metrics and metadata

No device or sharding is recorded: a checkpoint restores into the host's memory or into any sharding.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from transformer.errors import InputError
from transformer.parameters import from_version_0_1
from transformer.run_dir import CHECKPOINTS, LAYOUT, Counters, Record, best, records, validation_loss
from transformer.shapes import Params


class Checkpoints:
    """The checkpoints of a run while it trains: saved in the background, the last ones and the best one kept."""

    def __init__(self, run_dir: str | Path, keep_last: int, fingerprint: str) -> None:
        """Opens them, and deletes what a crash left unfinished.

        Args:
            run_dir: The run directory.
            keep_last: Number of regular checkpoints to keep. The best one is kept besides.
            fingerprint: The tokenizer's, kept with each checkpoint and checked when it is restored.
        """
        self._fingerprint = fingerprint
        self._records = {record.step: record for record in records(run_dir)}
        self._manager = _manager(
            run_dir, preservation_policy=_Preservation(self._records, keep_last), cleanup_tmp_directories=True
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
        """Starts to save a checkpoint, once the one before is complete. The state may be donated afterwards.

        One copy of the state is in memory until it is written. On a CPU, where orbax refers to the buffers themselves,
        the next step makes it: XLA copies a donated buffer that somebody else refers to, instead of overwriting it.

        Args:
            step: Updates made.
            state: A named tuple of pytrees of arrays. Its field `params` is what `Transformer.apply` takes first; only
                resuming needs the others.
            metrics: Kept with it. The checkpoint of the lowest `validation_loss` is the best.
            counters: Kept with it, for resuming.
            resume_only: As in `Record`.

        Raises: InputError if the disk lacks room for it, or the save before this one failed. RuntimeError if there is a
            checkpoint of this step or a later one.
        """
        latest = self.latest()
        if latest is not None and latest >= step:
            raise RuntimeError(f"Step {step} cannot be saved: there is a checkpoint of step {latest}.")
        items = _items(state)
        leaves = jax.tree.leaves(jax.eval_shape(lambda: items))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        free = shutil.disk_usage(self._manager.directory).free
        if free < size:
            raise InputError(
                f"There is no room for the checkpoint of step {step}: it has {size / 1e6:,.1f} MB, and "
                f"{free / 1e6:,.1f} MB are free in {self._manager.directory}. Make room and run the same command "
                "again; it resumes from the last checkpoint."
            )
        counters = counters or Counters()
        about: dict[str, Any] = {"fingerprint": self._fingerprint, "layout": LAYOUT, "resume_only": resume_only}
        self._records[step] = Record(step, validation_loss(metrics), **about, counters=counters)
        about["counters"] = counters._asdict()
        arguments = ocp.args.Composite(**{name: ocp.args.PyTreeSave(item) for name, item in items.items()})
        with self._writing():
            self._manager.save(step, args=arguments, metrics=dict(metrics), custom_metadata=about)

    def restore(self, step: int, state: Any) -> Any:
        """The state that was saved at a step, in the host's memory or on devices.

        Args:
            step: The step of a checkpoint.
            state: A state of the same structure, of which only shapes and types count. A leaf that is a
                `jax.ShapeDtypeStruct` with a sharding is restored as a `jax.Array` with this sharding; any other leaf
                as a NumPy array.

        Returns: A state of the type of the argument.

        Raises: InputError if it was saved with another tokenizer, or a shape or type differs from what is expected.
        """
        self.wait()
        _check_fingerprint(self._manager, self._records[step], self._fingerprint)
        items = _items(state)
        restored = _read(self._manager, step, items)
        for (path, here), there in zip(
            jax.tree_util.tree_leaves_with_path(items), jax.tree.leaves(restored), strict=True
        ):
            if (there.shape, there.dtype) != (here.shape, here.dtype):  # orbax would cast without a word
                raise InputError(
                    f"The checkpoint of step {step} does not fit this config: {jax.tree_util.keystr(path)} is "
                    f"{there.dtype}{list(there.shape)} there and {here.dtype}{list(here.shape)} here."
                )
        params = {"params": restored["params"]["params"], **restored["params"]["batch_stats"]}
        return type(state)(params=params, **restored["rest"])

    def counters(self, step: int) -> Counters:
        """The counters that were saved at a step."""
        return self._records[step].counters

    def steps(self) -> list[int]:
        """The steps of the regular checkpoints, ascending, including the one that is being saved."""
        return [step for step in self._manager.all_steps() if not self._records[step].resume_only]

    def latest(self) -> int | None:
        """The step of the last checkpoint, regular or not, if there is one: a run resumes from it."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Waits until the last checkpoint is complete. Raises: InputError if it could not be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, and ends the threads."""
        with self._writing():
            self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:  # tensorstore raises ValueError when the disk is full
            if isinstance(error, ValueError) and "Error writing" not in str(error):
                raise
            reason = str(error).splitlines()[0].rsplit('": ', 1)[-1]  # after the names of files within files
            raise InputError(
                f"A checkpoint could not be written to {self._manager.directory} ({reason}). Fix the cause and run the "
                "same command again; it goes on from the last complete checkpoint."
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_params(run_dir: str | Path, steps: Sequence[int], fingerprint: str | None = None) -> Params:
    """The parameters of a checkpoint, or the mean of several (section 6.1).

    params = sum of the checkpoints' params / their number

    Args:
        run_dir: The run directory.
        steps: The steps of the checkpoints, as `run_dir.checkpoint_steps` chooses them.
        fingerprint: If given, the tokenizer's, which must be the one they were trained with.

    Returns: The variables that `Transformer.apply` takes, `params` and the others, as NumPy arrays.

    Raises: InputError if there is no checkpoint of a step, or it is damaged or of another tokenizer.
    """
    known = {record.step: record for record in records(run_dir)}
    with _manager(run_dir, read_only=True, create=False, save_interval_steps=0) as manager:

        def read(step: int) -> dict[str, Params]:
            if step not in known:
                raise InputError(f"There is no checkpoint of step {step} in {manager.directory}.")
            if fingerprint is not None:
                _check_fingerprint(manager, known[step], fingerprint)
            return _read(manager, step)["params"]

        fields = read(steps[-1])
        if len(steps) > 1:
            total = jax.tree.map(lambda leaf: leaf.astype(np.float64), fields)
            for earlier in steps[:-1]:
                total = jax.tree.map(np.add, total, read(earlier))
            fields = jax.tree.map(lambda leaf, like: np.asarray(leaf / len(steps), like.dtype), total, fields)
    variables = {"params": fields.pop("params")}
    for collections in fields.values():
        variables |= collections
    if known[steps[-1]].layout == LAYOUT:
        return variables
    return {name: from_version_0_1(tree) for name, tree in variables.items()}


class _Preservation:
    """Keeps the last regular checkpoints, the best of them, and whichever checkpoint is the last of all."""

    def __init__(self, known: Mapping[int, Record], keep_last: int) -> None:
        self._known, self._keep_last = known, keep_last

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        every = [self._known[info.step] for info in checkpoints]
        regular = [record for record in every if not record.resume_only]
        kept = {best(regular), every[-1].step, *(record.step for record in regular[-self._keep_last :])}
        return [record.step in kept for record in every]


def _manager(run_dir: str | Path, **options: Any) -> ocp.CheckpointManager:
    # Without best_fn, orbax does not write the metrics.
    return ocp.CheckpointManager(
        Path(run_dir).resolve() / CHECKPOINTS,
        options=ocp.CheckpointManagerOptions(best_fn=validation_loss, best_mode="min", **options),
        item_handlers={"params": _handler(), "rest": _handler()},
    )


def _handler() -> ocp.PyTreeCheckpointHandler:
    # By default, orbax records shardings, and slices what is replicated by a program for each shape and device.
    arrays = type_handlers.ArrayHandler(use_replica_parallel=False, enable_write_sharding_file=False)
    registry = type_handlers.create_type_handler_registry(
        (int, type_handlers.ScalarHandler()), (np.ndarray, type_handlers.NumpyHandler()), (jax.Array, arrays)
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _items(state: Any) -> dict[str, dict[str, Any]]:
    """What evaluation needs, and what resuming needs besides: apart, so that the one loads without the other.

    On disk, what a model keeps besides its parameters has the name that it had first.
    """
    rest = state._asdict()
    others = dict(rest.pop("params"))
    return {"rest": rest, "params": {"params": others.pop("params"), "batch_stats": others}}


def _read(manager: ocp.CheckpointManager, step: int, items: dict[str, Any] | None = None) -> dict[str, Any]:
    """The items of a checkpoint as `restore` describes; without any, `params` as NumPy arrays."""

    def arguments(leaf: Any) -> ocp.RestoreArgs:
        sharding = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None
        return ocp.RestoreArgs(restore_type=np.ndarray) if sharding is None else ocp.ArrayRestoreArgs(sharding=sharding)

    try:
        if items is None:
            items = {"params": manager.item_metadata(step)["params"].tree}
        restore = {
            name: ocp.args.PyTreeRestore(item, restore_args=jax.tree.map(arguments, item))
            for name, item in items.items()
        }
        return dict(manager.restore(step, args=ocp.args.Composite(**restore)).items())
    except (ValueError, KeyError, OSError) as error:
        others = ", ".join(str(other) for other in manager.all_steps() if other != step) or "none"
        raise InputError(
            f"The checkpoint of step {step} in {manager.directory} is damaged and cannot be read. Checkpoints of other "
            f"steps: {others}."
        ) from error


def _check_fingerprint(manager: ocp.CheckpointManager, record: Record, fingerprint: str) -> None:
    if record.fingerprint != fingerprint:
        raise InputError(
            f"The checkpoint of step {record.step} in {manager.directory} was trained with another tokenizer than the "
            "tokenizer.json of its run directory. Restore the file that the run wrote."
        )

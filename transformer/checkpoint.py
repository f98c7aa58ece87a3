"""The arrays of checkpoints: to disk and back into any layout, and the mean of several.

    RUN/checkpoints/STEP/params   what evaluation needs
    RUN/checkpoints/STEP/rest     what resuming needs besides
    RUN/checkpoints/STEP/...      what a `Record` says, in orbax's files of metrics and metadata

No device or sharding is recorded: a checkpoint restores into the host's memory or into any sharding.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from transformer.checkpoint_files import (
    Preservation,
    UnreadableCheckpointError,
    check_fingerprint,
    items_of,
    open_manager,
    read,
    state_of,
    variables_of,
)
from transformer.errors import InputError
from transformer.parameters import from_version_0_1
from transformer.run_dir import (
    DAMAGED,
    LAYOUT,
    Counters,
    Record,
    records,
    validation_loss,
)
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
            checkpoint of a later step, or a regular one of this step.
        """
        latest = self.latest()
        replaces = latest == step and self._records[step].resume_only
        if latest is not None and latest >= step and not replaces:
            raise RuntimeError(f"Step {step} cannot be saved: there is a checkpoint of step {latest}.")
        items = items_of(state)
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
            if replaces:
                self._manager.wait_until_finished()
                self._manager.delete(step)
            self._manager.save(step, args=arguments, metrics=dict(metrics), custom_metadata=about)

    def restore(self, step: int, state: Any) -> Any:
        """The state that was saved at a step, in the host's memory or on devices.

        Args:
            step: The step of a checkpoint.
            state: A state of the same structure, of which only shapes and types count. A leaf that is a
                `jax.ShapeDtypeStruct` with a sharding is restored as a `jax.Array` with this sharding; any other leaf
                as a NumPy array.

        Returns: A state of the type of the argument.

        Raises: InputError if it is damaged, if it was saved with another tokenizer, or if a shape or type differs from
            what is expected.
        """
        self.wait()
        check_fingerprint(self._manager, self._records[step], self._fingerprint)
        items = items_of(state)
        restored = read(self._manager, step, items)
        for (path, here), there in zip(
            jax.tree_util.tree_leaves_with_path(items), jax.tree.leaves(restored), strict=True
        ):
            if (there.shape, there.dtype) != (here.shape, here.dtype):  # orbax would cast without a word
                raise InputError(
                    f"The checkpoint of step {step} does not fit this config: {jax.tree_util.keystr(path)} is "
                    f"{there.dtype}{list(there.shape)} there and {here.dtype}{list(here.shape)} here."
                )
        return state_of(restored, type(state))

    def restore_latest(self, state: Any, say: Callable[[str], None] = print) -> tuple[int, Any]:
        """The last checkpoint that can be read, regular or not: its step, and what `restore` returns.

        Later ones, which are damaged, are moved to `RUN/damaged`, so that their steps can be saved again. Only the
        process that holds the run may call this.

        Args:
            state: As in `restore`.
            say: Prints which checkpoints were moved, and where.

        Raises: InputError if no checkpoint can be read, or as `restore` does.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self.restore(step, state)
            except UnreadableCheckpointError:
                damaged.append(step)
                continue
            for other in damaged:
                say(f"The checkpoint of step {other:,} is damaged. It was moved to {self._set_aside(other)}.")
            return step, restored
        raise InputError(
            f"No checkpoint in {self._manager.directory} can be read. Restore one from a copy, or give another "
            "--run-dir."
        )

    def _set_aside(self, step: int) -> Path:
        source = Path(self._manager.directory) / str(step)
        folder = source.parents[1] / DAMAGED
        folder.mkdir(exist_ok=True)
        target = next(path for path in (folder / f"{step}{'+' * n}" for n in count()) if not path.exists())
        source.rename(target)
        self._manager.reload()
        return target

    def record(self, step: int) -> Record:
        """What is known of the checkpoint of a step."""
        return self._records[step]

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
    # With lightweight_initialize, orbax reads no metrics, so damaged metrics of other checkpoints do no harm.
    options = {"read_only": True, "create": False, "save_interval_steps": 0, "lightweight_initialize": True}
    with open_manager(run_dir, **options) as manager:

        def params_of(step: int) -> dict[str, Params]:
            if step not in known:
                message = f"There is no checkpoint of step {step} in {manager.directory}."
                raise UnreadableCheckpointError(step, message)
            if fingerprint is not None:
                check_fingerprint(manager, known[step], fingerprint)
            return read(manager, step)["params"]

        fields = params_of(steps[-1])
        if len(steps) > 1:
            total = jax.tree.map(lambda leaf: leaf.astype(np.float64), fields)
            for earlier in steps[:-1]:
                total = jax.tree.map(np.add, total, params_of(earlier))
            fields = jax.tree.map(lambda leaf, like: np.asarray(leaf / len(steps), like.dtype), total, fields)
    variables = variables_of(fields)
    if known[steps[-1]].layout == LAYOUT:
        return variables
    return {name: from_version_0_1(tree) for name, tree in variables.items()}

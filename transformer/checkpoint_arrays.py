"""Loads the arrays of checkpoints for evaluation, and averages them."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from transformer.checkpoint_files import (
    UnreadableCheckpointError,
    check_fingerprint,
    open_manager,
    read,
    variables_of,
)
from transformer.checkpoint_records import LAYOUT, records
from transformer.parameters import from_version_0_1
from transformer.shapes import Params


def load_arrays(run_dir: str | Path, step: int) -> dict[str, np.ndarray]:
    """Loads every array of a checkpoint: parameters, running statistics and optimizer state.

    Args:
        run_dir: The run directory.
        step: Step of the checkpoint.

    Returns: The arrays in the dtype they were saved in, by their paths, such as `rest/optimizer_state/0/mu/embedding`.

    Raises: InputError if the checkpoint is missing or damaged.
    """
    with open_manager(run_dir, read_only=True, create=False, save_interval_steps=0) as manager:
        items = read(manager, step, ("params", "rest"))
    leaves = jax.tree_util.tree_leaves_with_path(items)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def load_params(run_dir: str | Path, steps: Sequence[int], fingerprint: str | None = None) -> Params:
    """Loads the parameters of a checkpoint, or the mean of several (section 6.1).

    params = sum of the checkpoints' params / number of checkpoints

    Args:
        run_dir: The run directory.
        steps: Steps of the checkpoints, as `run_dir.checkpoint_steps` returns them.
        fingerprint: Fingerprint of the tokenizer that they must have been trained with; None skips this check.

    Returns: The variables that `Transformer.apply` takes first, as NumPy arrays in the dtype they were saved in.

    Raises: InputError if a checkpoint is missing or damaged, or was trained with another tokenizer.
    """
    known = {record.step: record for record in records(run_dir)}
    with open_manager(run_dir, read_only=True, create=False, save_interval_steps=0) as manager:

        def params_of(step: int) -> dict[str, Params]:
            if step not in known:
                message = f"Cannot find the checkpoint of step {step} in {manager.directory}."
                raise UnreadableCheckpointError(step, message)
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

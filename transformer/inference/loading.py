"""Loading of parameters from a run, even if it is in training or damaged."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from transformer import processes
from transformer.checkpoint import UNVERIFIED
from transformer.checkpoint_arrays import load_params
from transformer.checkpoint_files import UnreadableCheckpointError
from transformer.checkpoint_records import CHECKPOINTS, Record, best, records
from transformer.errors import InputError
from transformer.manifest import has_manifest
from transformer.run_dir import checkpoint_steps, read_config
from transformer.shapes import Params


def named_checkpoint(name: str, default: Literal["best", "last"] | int) -> tuple[str, Literal["best", "last"] | int]:
    """The run and checkpoint named by RUN, RUN@STEP, RUN@best or RUN@last.

    Args:
        name: The name.
        default: The checkpoint to use for RUN alone.

    Raises:
        InputError: The part after @ is not a checkpoint.
    """
    run, at, checkpoint = name.rpartition("@")
    if not at or Path(name).is_dir():
        return name, default
    if checkpoint == "last" or checkpoint == "best":
        return run, checkpoint
    if not checkpoint.isdecimal():
        raise InputError(f"{name} names no checkpoint. Write RUN@STEP, RUN@best or RUN@last.")
    return run, int(checkpoint)


def load_chosen(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int,
    average: int | None,
    fingerprint: str,
    say: Callable[[str], None],
) -> tuple[list[int], Params]:
    """Loads the mean of the checkpoints that `run_dir.checkpoint_steps` chooses.

    If a chosen checkpoint cannot be read, the choice is repeated without it, unless `checkpoint` is a step. The same
    happens if the training process deletes a chosen checkpoint before it is read. Nothing on disk is changed.

    Args:
        run_dir: The run directory.
        checkpoint: As in `checkpoint_steps`.
        average: As in `checkpoint_steps`.
        fingerprint: Fingerprint of the tokenizer.
        say: Receives a sentence if checkpoints that would have been chosen cannot be read. It names them, and those
            that are used instead.

    Returns:
        The steps of the checkpoints, and their mean as `load_params` returns it.

    Raises:
        InputError: No checkpoint that fits the arguments can be read, or one was trained with another tokenizer.
    """
    unreadable = set[int]()
    while True:
        try:
            steps = processes.decided_by_first(partial(checkpoint_steps, run_dir, checkpoint, average, unreadable))
            params, error = processes.agree(partial(_load, run_dir, steps, fingerprint))
        except InputError as error:
            damaged = [record.step for record in records(run_dir) if record.step in unreadable or _is_damaged(record)]
            if not damaged:
                raise
            raise InputError(f"{error} {_name(damaged).capitalize()} cannot be read.") from error
        failed = next((found for found in processes.gathered(error and [error.step, str(error)]) if found), None)
        if failed is not None and not isinstance(checkpoint, str):
            raise error or UnreadableCheckpointError(*failed)
        if failed is not None:
            unreadable.add(failed[0])
            continue
        assert params is not None
        if missing := _missing(run_dir, checkpoint, average, steps, unreadable):
            say(f"Using {_name(steps)} of {run_dir} because {_name(missing)} cannot be read.")
        if old := [step for step in steps if not has_manifest(Path(run_dir) / CHECKPOINTS / str(step))]:
            say(UNVERIFIED.format(f"{_name(old)} of {run_dir}"))
        return steps, params


def _load(
    run_dir: str | Path, steps: Sequence[int], fingerprint: str
) -> tuple[Params, None] | tuple[None, UnreadableCheckpointError]:
    """The mean of checkpoints, or the error if one cannot be read."""
    try:
        return load_params(run_dir, steps, fingerprint), None
    except UnreadableCheckpointError as error:
        return None, error


def _missing(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int,
    average: int | None,
    steps: Sequence[int],
    unreadable: Collection[int],
) -> list[int]:
    """The steps of damaged checkpoints that should have been among `steps`."""
    known = {record.step: record for record in records(run_dir)}
    last = known.get(steps[-1], Record(steps[-1], math.inf))
    wanted = read_config(run_dir).average if average is None else average

    def is_missing(record: Record) -> bool:
        if record.step in unreadable:
            return True
        if not _is_damaged(record):
            return False
        if steps[0] < record.step < steps[-1]:
            return True
        if checkpoint == "last":
            return record.step > steps[-1] or len(steps) < wanted
        return checkpoint == "best" and (math.isinf(record.validation_loss) or best([record, last]) == record.step)

    return [step for step, record in known.items() if is_missing(record)]


def _is_damaged(record: Record) -> bool:
    return record.fingerprint is None  # every version saves one


def _name(steps: Sequence[int]) -> str:
    *others, last = map(str, steps)
    return f"the checkpoints of steps {', '.join(others)} and {last}" if others else f"the checkpoint of step {last}"

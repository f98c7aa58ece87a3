"""The run directory: everything that is needed to resume, evaluate or look into a run, on any machine.

    RUN/config.json         the resolved config
    RUN/tokenizer.json      the tokenizer
    RUN/data.json           what was read, and what was dropped
    RUN/test.jsonl          the test set
    RUN/metrics.jsonl       losses and scores along the way
    RUN/checkpoints/STEP/   arrays: `params` is all that evaluation needs, `rest` what resuming needs besides
    RUN/diverged.txt        why training has ended before its time, if it has diverged
    RUN/scores.json         the final scores
    RUN/.lock               held by the process that trains
    RUN/hypotheses.txt      the translations of the test set
    RUN/evaluation/         scores and translations of each checkpoint, where `evaluate --watch` has been at work
    RUN/tuning/             the candidates that `tune` has ranked

Arrays are saved from the host's memory and restored into it, as NumPy arrays: no device or sharding is recorded, so a
checkpoint restores on any number of devices. The caller puts them where they are to live.
"""

import dataclasses
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from filelock import FileLock, Timeout
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from transformer.config import Config, TrainingConfig
from transformer.config_files import from_json, to_json
from transformer.data.text import locate
from transformer.errors import InputError
from transformer.files import PART, write_whole
from transformer.parameters import from_version_0_1
from transformer.shapes import Params

# Orbax reports its routine on absl's logger, and absl sends it to stderr. What goes wrong it raises as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)

DIVERGED = "diverged.txt"
LAYOUT = 2  # of the parameters; version 0.1 had no number, and each layer was a module of its own
_READ_ONLY = {"read_only": True, "create": False, "save_interval_steps": 0}


def check_run(run_dir: str | Path, config: Config) -> None:
    """Checks that a directory can be that of a run with this config; makes and changes nothing.

    Args:
        run_dir: The directory, which need not exist.
        config: The resolved config. Its own `run_dir` does not count in the comparison with the one that is there, nor
            does whether the path of a file is absolute or relative.

    Raises: InputError if the directory belongs to another config, has files in it but no `config.json`, or is a file.
    """
    run_dir = Path(run_dir).resolve()
    nearest = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"The run directory {run_dir} cannot be written to. Give another --run-dir.")
    if (run_dir / "config.json").exists():
        with _manager(run_dir, **_READ_ONLY) as manager:
            last = manager.latest_step()
            resumable = last is None or _about(manager, last).get("layout") == LAYOUT
        if not resumable:
            raise InputError(
                f"The run in {run_dir} was made by version 0.1, whose parameters were arranged otherwise. It can be "
                "translated with and evaluated, but not resumed: give another --run-dir."
            )
        there, here = _fields(read_config(run_dir)), _fields(config)
        for name, value in here.items():
            if there[name] != value:
                raise InputError(
                    f"The run directory {run_dir} is of another config: {name} is {there[name]!r} there and {value!r} "
                    "here. Give the same config to resume that run, or another --run-dir."
                )
    elif run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"The run directory {run_dir} is a file. Give another --run-dir.")
    elif run_dir.exists() and any(path.suffix != PART for path in run_dir.iterdir()):
        raise InputError(
            f"The run directory {run_dir} is neither empty nor that of a run (it has no config.json). Give another "
            "--run-dir."
        )


def open_run(run_dir: str | Path, config: Config) -> Path:
    """Makes the run directory and writes its `config.json`, or finds one that was made for this config.

    Args:
        run_dir: The directory.
        config: The resolved config.

    Returns: The directory, as an absolute path.

    Raises: InputError if `check_run` does, or the directory cannot be made or written to.
    """
    run_dir = Path(run_dir).resolve()
    check_run(run_dir, config)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The run directory {run_dir} cannot be made: {error.strerror}.") from error
    if not (run_dir / "config.json").exists():
        write_whole(run_dir / "config.json", to_json(config).encode())
    return run_dir


@contextmanager
def hold_run(run_dir: Path) -> Iterator[None]:
    """Keeps every other process from training in a run directory; the hold ends with the process at the latest.

    Raises: InputError if another process holds it.
    """
    try:
        with FileLock(run_dir / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"Another process is training in the run directory {run_dir}. Wait for it, or give another --run-dir."
        ) from error


def _fields(config: Config) -> dict[str, Any]:
    """The config as one flat dict, files by their absolute paths, without what may differ within a run."""
    fields = {}
    for name, value in dataclasses.asdict(config).items():
        fields |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    del fields["run_dir"]
    if config.data.corpus == "files":
        for name in ("data.train", "data.validation", "data.test"):
            fields[name] = tuple(str(locate(file).resolve()) for file in fields[name])
    elif config.data.is_one_file:
        fields["data.corpus"] = str(locate(config.data.corpus).resolve())
    if fields["tokenizer.file"] is not None:
        fields["tokenizer.file"] = str(Path(fields["tokenizer.file"]).resolve())
    return fields


def read_config(run_dir: str | Path) -> Config:
    """The config that a run was made with.

    Raises: InputError if the directory is not that of a run, or its `config.json` cannot be understood.
    """
    file = Path(run_dir) / "config.json"
    if not file.is_file():
        raise InputError(f"{run_dir} is not the directory of a run: it has no config.json.")
    try:
        return from_json(file.read_text(encoding="utf-8"))
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be used. {error}") from error


class Checkpoints:
    """The checkpoints of a run while it trains: saved in the background, the last ones and the best one kept."""

    def __init__(self, run_dir: str | Path, keep_last: int, fingerprint: str) -> None:
        """Opens them, and clears away what a crash left unfinished.

        Args:
            run_dir: The run directory.
            keep_last: How many of the last ones to keep; the one of lowest `validation_loss` is kept besides.
            fingerprint: The tokenizer's, kept with each checkpoint and checked when it is restored.
        """
        self._fingerprint = fingerprint
        keep = AnyPreservationPolicy([LatestN(keep_last), BestN(get_metric_fn=_loss, reverse=True, n=1)])
        self._manager = _manager(run_dir, preservation_policy=keep, cleanup_tmp_directories=True)

    def save(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Starts to save a checkpoint; waits for the one before. The arrays may be changed or donated afterwards.

        Args:
            step: Updates made.
            state: A named tuple of pytrees of unreplicated arrays, with `params` and `batch_stats` among its fields.
            metrics: Kept with it; the one of the lowest `validation_loss` is the best.

        Raises: InputError if there is no room for it, or the save before this one failed. RuntimeError if there is a
            checkpoint of this step or a later one.
        """
        items = _items(jax.tree.map(np.array, jax.device_get(state)))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
        free = shutil.disk_usage(self._manager.directory).free
        if free < size:
            raise InputError(
                f"There is no room for the checkpoint of step {step}: it has {size / 1e6:,.1f} MB, and "
                f"{free / 1e6:,.1f} MB are free in {self._manager.directory}. Make room; the same command goes on from "
                "the last checkpoint."
            )
        arguments = ocp.args.Composite(**{name: ocp.args.PyTreeSave(item) for name, item in items.items()})
        about = {"fingerprint": self._fingerprint, "layout": LAYOUT}
        with self._writing():
            saved = self._manager.save(step, args=arguments, metrics=dict(metrics), custom_metadata=about)
        if not saved:
            raise RuntimeError(f"Step {step} cannot be saved: there is a checkpoint of step {self.latest()}.")

    def restore(self, step: int, state: Any) -> Any:
        """The state that was saved at that step, as NumPy arrays.

        Args:
            step: One of `steps()`.
            state: A state of the same structure, of which only the shapes and types are looked at.

        Returns: A state of the type of the argument.

        Raises: InputError if it was saved with another tokenizer, or a shape or type differs from what is expected.
        """
        self.wait()
        _check_fingerprint(self._manager, step, self._fingerprint)
        items = _items(state)
        arguments = ocp.args.Composite(**{name: _restore_as(item) for name, item in items.items()})
        restored = dict(_read(self._manager, step, arguments).items())
        for (path, here), there in zip(
            jax.tree_util.tree_leaves_with_path(items), jax.tree.leaves(restored), strict=True
        ):
            if (there.shape, there.dtype) != (here.shape, here.dtype):  # orbax would cast without a word
                raise InputError(
                    f"The checkpoint of step {step} does not fit this config: {jax.tree_util.keystr(path)} is "
                    f"{there.dtype}{list(there.shape)} there and {here.dtype}{list(here.shape)} here."
                )
        return type(state)(**restored["params"], **restored["rest"])

    def steps(self) -> list[int]:
        """The steps of the checkpoints, ascending, the one that is being saved included."""
        return list(self._manager.all_steps())

    def latest(self) -> int | None:
        """The last of `steps()`, if there is one."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step of the lowest validation loss, the last of equals, or simply the last if none was measured."""
        return self._manager.best_step()

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
            reason = str(error).splitlines()[0].rsplit('": ', 1)[-1]  # behind the names of files within files
            raise InputError(
                f"A checkpoint could not be written to {self._manager.directory} ({reason}). When this is mended, the "
                "same command goes on from the last whole one."
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def saved_steps(run_dir: str | Path) -> list[int]:
    """The steps whose checkpoints a run has, ascending."""
    with _manager(run_dir, **_READ_ONLY) as manager:
        return list(manager.all_steps())


def is_finished(run_dir: str | Path) -> bool:
    """Whether a run has come to its end: it has the checkpoint of its last step, its patience is over, or it has
    diverged."""
    if (Path(run_dir) / DIVERGED).exists():
        return True
    training = read_config(run_dir).training
    with _manager(run_dir, **_READ_ONLY) as manager:
        steps = list(manager.all_steps())
        return bool(steps) and (
            steps[-1] == training.steps or out_of_patience(manager.best_step(), steps[-1], training)
        )


def out_of_patience(best: int | None, step: int, training: TrainingConfig) -> bool:
    """Whether a run stops at a step because the lowest validation loss is `training.patience` validations ago."""
    return (
        best is not None
        and training.patience is not None
        and step - best >= training.patience * training.validate_every
    )


def checkpoint_steps(
    run_dir: str | Path, checkpoint: Literal["best", "last"] | int = "last", average: int | None = None
) -> list[int]:
    """The steps of so many checkpoints, ascending: the one of lowest validation loss, the last or that of a step, and
    those before it. Without a number, of the last one as many as the run's config says, or as there are; of another,
    only itself.

    Raises: InputError if the directory is not that of a run, or it has no checkpoint, not this one, or not as many.
    """
    config = read_config(run_dir)
    with _manager(run_dir, **_READ_ONLY) as manager:
        if average is None:
            average = min(config.average, max(len(manager.all_steps()), 1)) if checkpoint == "last" else 1
        return _chosen_steps(manager, run_dir, checkpoint, average)


def _chosen_steps(
    manager: ocp.CheckpointManager, run_dir: str | Path, checkpoint: Literal["best", "last"] | int, average: int
) -> list[int]:
    steps = list(manager.all_steps())
    if not steps:
        raise InputError(f"There is no checkpoint in {Path(run_dir) / 'checkpoints'}.")
    names = {"best": manager.best_step(), "last": manager.latest_step()}
    step = names[checkpoint] if isinstance(checkpoint, str) else checkpoint
    there = f"{run_dir} has those of the steps {', '.join(map(str, steps))}."
    if step not in steps:
        raise InputError(f"There is no checkpoint of step {step}: {there}")
    end = steps.index(step) + 1
    if not 1 <= average <= end:
        raise InputError(f"Of step {step} and before, {average} checkpoints cannot be averaged: {there}")
    return steps[end - average : end]


def load_params(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int = "last",
    average: int = 1,
    fingerprint: str | None = None,
) -> Params:
    """The parameters of a checkpoint, or the mean of several (section 6.1).

    params = sum of the last `average` checkpoints' params / average

    Args:
        run_dir: The run directory.
        checkpoint: The one of lowest validation loss, the last one, or the one of a step.
        average: The mean of this many checkpoints, this one and those before it, is taken.
        fingerprint: If given, the tokenizer's, which must be the one it was trained with.

    Returns: The variables that `Transformer.apply` takes, `params` and batch statistics, as NumPy arrays.

    Raises: InputError if the run has no checkpoint, not this one, not as many, or one of another tokenizer.
    """
    with _manager(run_dir, **_READ_ONLY) as manager:
        *before, step = _chosen_steps(manager, run_dir, checkpoint, average)

        def read(step: int) -> Params:
            if fingerprint is not None:
                _check_fingerprint(manager, step, fingerprint)
            return _read(manager, step, ocp.args.Composite(params=_restore_as(None)))["params"]

        params = read(step)
        layout = _about(manager, step).get("layout")
        total = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
        for earlier in before:
            total = jax.tree.map(np.add, total, read(earlier))
        mean = jax.tree.map(lambda leaf, like: np.asarray(leaf / average, like.dtype), total, params)
        variables = {"params": mean["params"], **mean["batch_stats"]}
        return variables if layout == LAYOUT else {name: from_version_0_1(tree) for name, tree in variables.items()}


def _items(state: Any) -> dict[str, dict[str, Any]]:
    """What evaluation needs, and what resuming needs besides: apart, so that the one loads without the other."""
    rest = state._asdict()
    return {"params": {name: rest.pop(name) for name in ("params", "batch_stats")}, "rest": rest}


def _manager(run_dir: str | Path, **options: Any) -> ocp.CheckpointManager:
    # With best_fn the metrics are written, and best_step() is the best: without it, neither happens, silently.
    return ocp.CheckpointManager(
        Path(run_dir).resolve() / "checkpoints",
        options=ocp.CheckpointManagerOptions(best_fn=_loss, best_mode="min", **options),
    )


def _loss(metrics: Mapping[str, float]) -> float:
    if "validation_loss" in metrics and math.isfinite(metrics["validation_loss"]):
        return metrics["validation_loss"]
    return math.inf  # a run without validation data: none is better than another


def _restore_as(item: Any) -> ocp.args.PyTreeRestore:
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.args.PyTreeRestore(item, restore_args=jax.tree.map(lambda _: as_numpy, item))


def _read(manager: ocp.CheckpointManager, step: int, items: ocp.args.Composite) -> Any:
    try:
        return manager.restore(step, args=items)
    except (ValueError, KeyError, OSError) as error:
        others = ", ".join(str(other) for other in manager.all_steps() if other != step) or "none"
        raise InputError(
            f"The checkpoint of step {step} in {manager.directory} is damaged and cannot be read. Checkpoints of other "
            f"steps: {others}."
        ) from error


def _check_fingerprint(manager: ocp.CheckpointManager, step: int, fingerprint: str) -> None:
    if _about(manager, step).get("fingerprint") != fingerprint:
        raise InputError(
            f"The checkpoint of step {step} in {manager.directory} was trained with another tokenizer than the "
            "tokenizer.json of its run directory. Restore the file that the run wrote."
        )


def _about(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """What was saved beside the arrays: the tokenizer's fingerprint and the layout of the parameters."""
    return dict(manager.metadata(step).custom_metadata or {})

"""Scoring of each checkpoint of a run as soon as it appears."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformer.changes import ROUNDING
from transformer.checkpoint_files import UnreadableCheckpointError
from transformer.config import SearchConfig
from transformer.config_files import to_json
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.files import check_writable
from transformer.inference.evaluate import Scores
from transformer.inference.metrics import Metrics, metrics_of
from transformer.inference.results import Result, evaluate, read_result, write_result
from transformer.inference.translator import load
from transformer.run_dir import is_finished, read_config, saved_steps, training_data
from transformer.runtime import resolve_dtype

FOLDER = "evaluation"  # in the run directory
DIFFERENCES = {
    "run": "the model of another run",
    "sentences": "other sentences",
    "search": "other search options",
    "metrics": "other metrics",
    "dtype": "--dtype {}",
    "average": "--average {}",
}


class Settings(NamedTuple):
    """What all evaluations in one folder have in common."""

    run: tuple[Any, ...]
    sentences: str
    search: Mapping[str, Any]
    metrics: Metrics
    dtype: str
    average: int


def watch(
    run_dir: str | Path,
    pairs: Pairs,
    search: SearchConfig,
    folder: str | Path | None = None,
    *,
    metrics: Metrics | None = None,
    average: int = 1,
    dtype: Literal["auto", "bfloat16", "float32"] | None = None,
    interval: float = 30.0,
    report: Callable[[str], None] = print,
    note: Callable[[str], None] = print,
) -> None:
    """Scores the checkpoints of a run, the earliest first, until it has ended.

    Each evaluation is kept in the folder under its step (see `inference/results.py`). Checkpoints already scored with
    the same settings are skipped, and so are damaged ones, which are reported. Only the run directory has to be shared
    with the training machine; checkpoints appear in it atomically.

    Args:
        run_dir: The run directory. It has a config, a tokenizer and a test set, but perhaps no checkpoint yet.
        pairs: The sentences to translate, and their references.
        search: Settings of the search.
        folder: Where to keep the evaluations. None is the folder `evaluation` of the run directory.
        metrics: The metrics to compute. None uses the metrics of the run's config.
        average: Number of checkpoints to average for each evaluation: the checkpoint and the `average - 1` before it,
            or fewer if fewer exist.
        dtype: The compute dtype. None uses the dtype of the run's config.
        interval: Number of seconds to wait before looking for new checkpoints again.
        report: Receives one line for each checkpoint.
        note: Receives one line each time that the function begins to wait.

    Raises:
        InputError: The folder has evaluations with other settings, or of another run. Or a checkpoint was trained with
            another tokenizer.
        OSError: A checkpoint's files cannot be opened, even after waiting once.
    """
    folder = Path(run_dir) / FOLDER if folder is None else Path(folder)
    if not folder.is_dir():
        check_writable(folder)
        folder.mkdir()
    config = read_config(run_dir)
    metrics = metrics_of(config) if metrics is None else metrics
    resolved, _ = resolve_dtype(dtype or config.model.dtype)
    settings = Settings(
        run=_identity(json.loads(to_json(config)), training_data(run_dir)),
        sentences=pairs.fingerprint,
        search=json.loads(json.dumps(dataclasses.asdict(search))),
        metrics=metrics,
        dtype=resolved,
        average=average,
    )
    done = {int(kept.name) for kept in folder.iterdir() if kept.name.isdecimal()}
    for step in sorted(done):
        _check_same(folder, step, settings)
    known, failed, waiting = set[int](), set[int](), False
    while True:
        finished = is_finished(run_dir)  # before the list is read, so that the list of a finished run is complete
        steps = saved_steps(run_dir)
        known |= {*steps}
        for step in sorted(known - done - {*steps}):
            report(f"step {step:,}: deleted before it could be scored")
            done.add(step)
        left = sorted(known - done)
        if not left and finished:
            return
        if not left:
            if not waiting:
                after = f"a checkpoint after step {max(known):,}" if known else "the first checkpoint"
                note(f"waiting for {after} (checking every {interval:g} s)")
            waiting = True
            time.sleep(interval)
            continue
        step, waiting = left[0], False
        start = time.monotonic()
        try:
            translator = load(run_dir, step, min(average, steps.index(step) + 1), dtype)
        except (InputError, OSError) as error:
            # The training process may be deleting this checkpoint, or one that is averaged with it. In that case it
            # is no longer listed after the interval.
            if step not in failed:
                failed.add(step)
                time.sleep(interval)
            elif isinstance(error, UnreadableCheckpointError):
                report(f"step {step:,}: not scored. {error}")
                done.add(step)
            else:
                raise
            continue
        scores, result = evaluate(translator, pairs, search, [(str(run_dir), translator.checkpoints)], metrics)
        write_result(folder / str(step), dataclasses.replace(result, average=average), scores)
        done.add(step)
        report(f"step {step:,}: {_line(scores)}, in {time.monotonic() - start:.0f} s")


def _identity(config: Mapping[str, Any], training_data: str | None) -> tuple[Any, ...]:
    """The settings of a run, without those that may change when it is resumed."""
    model = {name: value for name, value in config["model"].items() if name not in ROUNDING}
    return training_data, config["seed"], model, config["optimizer"]


def _check_same(folder: Path, step: int, settings: Settings) -> None:
    """Raises an InputError if a kept evaluation has other settings."""
    kept = _settings(read_result(folder / str(step)))
    for name, found, given in zip(Settings._fields, kept, settings, strict=True):
        if found != given:
            raise InputError(
                f"Step {step} in {folder} was scored with {DIFFERENCES[name].format(found)}. Give another folder with "
                "--output."
            )


def _settings(kept: Result) -> Settings:
    checkpoints = kept.config["checkpoints"]
    return Settings(
        run=_identity(kept.config, kept.training_data),
        sentences=kept.pairs.fingerprint,
        search=kept.config["search"],
        metrics=kept.metrics,
        dtype=kept.config["model"]["dtype"],
        average=len(checkpoints) if kept.average is None else kept.average,  # earlier versions kept no number
    )


def _line(scores: Scores) -> str:
    parts = [f"{score.name} {score.score:.2f}" for score in scores.by_metric.values()]
    first = next(iter(scores.by_metric.values()))
    parts[0] += " ({:.2f} to {:.2f})".format(*first.interval)
    parts.append(f"exact match {scores.exact_match.score:.2f} %")
    if scores.loss is not None:
        parts.append(f"loss {scores.loss:.4f}")
    return ", ".join(parts)

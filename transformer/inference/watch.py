"""Scoring each checkpoint of a run as it appears, beside the training and perhaps on another machine."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from transformer.config import SearchConfig
from transformer.config_files import to_json
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.files import check_writable
from transformer.inference.evaluate import Scores
from transformer.inference.metrics import Metrics, metrics_of
from transformer.inference.results import evaluate, read_result, write_result
from transformer.inference.translator import load
from transformer.run_dir import is_finished, read_config, saved_steps, training_data
from transformer.runtime import resolve_dtype

FOLDER = "evaluation"  # in the run directory


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
    """Scores the checkpoints of a run, the earliest first, until the run has ended and all are scored.

    The evaluation of each is kept in the folder as STEP (see `inference/results.py`). A step that is there already is
    not scored again. All that is needed of the machine that trains is its run directory: a checkpoint appears in it
    whole.

    Args:
        run_dir: the run directory; training may not have begun yet, but its test set and tokenizer are there.
        pairs: what is translated and scored.
        search: how it is translated.
        folder: where the evaluations are kept; RUN/evaluation unless given.
        metrics: how it is scored; as the run's config says unless given.
        average: each checkpoint is scored as the mean of this many, itself and those before it, or as many as there
            are.
        dtype: compute type instead of the run's.
        interval: seconds to wait before looking again, when nothing is left to score.
        report: takes a line for each checkpoint.
        note: takes a line whenever it begins to wait for one.

    Raises:
        InputError: the folder has evaluations of another run, other pairs, another search, other metrics or another
            compute type; a checkpoint is damaged, at two looks one after the other, or of another tokenizer.
    """
    folder = Path(run_dir) / FOLDER if folder is None else Path(folder)
    if not folder.is_dir():
        check_writable(folder)
        folder.mkdir()
    done = {int(kept.name) for kept in folder.iterdir() if kept.name.isdecimal()}
    config = read_config(run_dir)
    metrics = metrics_of(config) if metrics is None else metrics
    resolved, _ = resolve_dtype(dtype or config.model.dtype)
    own = _identity(json.loads(to_json(config)), training_data(run_dir))
    for step in sorted(done):
        _check_same(folder, step, own, pairs, search, metrics, resolved)
    known, failed, waiting = set[int](), set[int](), False
    while True:
        finished = is_finished(run_dir)  # asked first: of a finished run, no checkpoint comes after the list
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
                note(f"waiting for {after}; looking every {interval:g} s")
            waiting = True
            time.sleep(interval)
            continue
        step, waiting = left[0], False
        start = time.monotonic()
        averaged = steps[max(0, steps.index(step) + 1 - average) : steps.index(step) + 1]
        try:
            translator = load(run_dir, step, len(averaged), dtype)
        except (InputError, OSError):
            # It, or an earlier one that it is averaged with, may just be being deleted, which the next look says.
            if step in failed:
                raise
            failed.add(step)
            time.sleep(interval)
            continue
        scores, result = evaluate(translator, pairs, search, [(str(run_dir), averaged)], metrics)
        write_result(folder / str(step), result, scores)
        done.add(step)
        report(f"step {step:,}: {_line(scores)}, in {time.monotonic() - start:.0f} s")


def _identity(config: Mapping[str, Any], training_data: str | None) -> tuple[Any, ...]:
    """What tells two runs apart, of what stays the same when a run is resumed with other settings."""
    rounding = ("dtype", "implementation", "scan_unroll")
    model = {name: value for name, value in config["model"].items() if name not in rounding}
    return training_data, config["seed"], model, config["optimizer"]


def _check_same(
    folder: Path,
    step: int,
    run: tuple[Any, ...],
    pairs: Pairs,
    search: SearchConfig,
    metrics: Metrics,
    dtype: str,
) -> None:
    kept = read_result(folder / str(step))
    if _identity(kept.config, kept.training_data) != run:
        other = "another run's model"
    elif kept.pairs.fingerprint != pairs.fingerprint:
        other = "other sentences"
    elif kept.config["search"] != json.loads(json.dumps(dataclasses.asdict(search))):
        other = "other search options"
    elif kept.metrics != metrics:
        other = "other metrics"
    elif kept.config["model"]["dtype"] != dtype:
        other = "another compute type"
    else:
        return
    raise InputError(f"Step {step} was scored with {other} in {folder}. Give another folder with --output.")


def _line(scores: Scores) -> str:
    parts = [f"{score.name} {score.score:.2f}" for score in scores.by_metric.values()]
    first = next(iter(scores.by_metric.values()))
    parts[0] += " ({:.2f} to {:.2f})".format(*first.interval)
    parts.append(f"exact match {scores.exact_match.score:.2f} %")
    if scores.loss is not None:
        parts.append(f"loss {scores.loss:.4f}")
    return ", ".join(parts)

"""Scoring each checkpoint of a run as it appears, beside the training and perhaps on another machine."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from transformer.config import SearchConfig
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.files import write_lines, write_whole
from transformer.inference.evaluate import Scores
from transformer.inference.translator import load
from transformer.run_dir import is_finished, read_config, saved_steps
from transformer.runtime import resolve_dtype

FOLDER = "evaluation"  # in the run directory


def watch(
    run_dir: str | Path,
    pairs: Pairs,
    search: SearchConfig,
    *,
    average: int = 1,
    dtype: Literal["auto", "bfloat16", "float32"] | None = None,
    interval: float = 30.0,
    report: Callable[[str], None] = print,
) -> None:
    """Scores the checkpoints of a run, the earliest first, until the run has come to its end and all are scored.

    Of each, RUN/evaluation/STEP.json keeps the scores and what they are of (search, average, data, compute type), and
    STEP.txt the translations, which are written first. What is there already, of the same, is not scored again. All
    that is needed of the machine that trains is its run directory: a checkpoint appears in it whole.

    Args:
        run_dir: the run directory; training may not have begun yet, but its test set and tokenizer are there.
        pairs: what is translated and scored.
        search: how is searched.
        average: each checkpoint is scored as the mean of so many, itself and those before it, or as many as there are.
        dtype: compute type instead of the run's.
        interval: seconds between two looks, when nothing is left to score.
        report: takes a line for each checkpoint.

    Raises:
        InputError: a checkpoint is damaged, at two looks one after the other, or of another tokenizer.
    """
    folder = Path(run_dir) / FOLDER
    folder.mkdir(exist_ok=True)
    about = _about(pairs, search, average, resolve_dtype(dtype or read_config(run_dir).model.dtype)[0])
    known, done, failed = set[int](), set[int](), set[int]()
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
            time.sleep(interval)
            continue
        step = left[0]
        if _is_scored(folder / f"{step}.json", about):
            done.add(step)
            continue
        start = time.monotonic()
        averaged = min(average, steps.index(step) + 1)
        try:
            translator = load(run_dir, step, averaged, dtype)
        except (InputError, OSError):
            # It, or an earlier one that it is averaged with, may just be being deleted, which the next look says.
            if step in failed:
                raise
            failed.add(step)
            time.sleep(interval)
            continue
        scores, hypotheses = translator.evaluate(pairs, search)
        write_lines(folder / f"{step}.txt", hypotheses)
        record = {"step": step, "averaged": averaged, "about": about, "scores": json.loads(scores.to_json())}
        write_whole(folder / f"{step}.json", f"{json.dumps(record, indent=2, ensure_ascii=False)}\n".encode())
        done.add(step)
        report(f"step {step:,}: {_line(scores)}, in {time.monotonic() - start:.0f} s")


def _about(pairs: Pairs, search: SearchConfig, average: int, dtype: str) -> dict[str, Any]:
    settings = {"search": dataclasses.asdict(search), "average": average, "data": pairs.fingerprint, "dtype": dtype}
    return json.loads(json.dumps(settings))  # as it is read again: tuples are lists there


def _is_scored(file: Path, about: dict[str, Any]) -> bool:
    return file.exists() and json.loads(file.read_text(encoding="utf-8"))["about"] == about


def _line(scores: Scores) -> str:
    lower, upper = scores.bleu.interval
    loss = "" if scores.loss is None else f", loss {scores.loss:.4f}"
    return (
        f"BLEU {scores.bleu.score:.2f} ({lower:.2f} to {upper:.2f}), chrF2 {scores.chrf.score:.2f}, "
        f"exact match {scores.exact_match.score:.2f} %{loss}"
    )

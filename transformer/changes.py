"""What may change in a config when its run is resumed.

A field may change unless it changes the next step. So the resumed run makes the updates that an uninterrupted run with
the new config would have made. Where the data come from may change as long as their content does not, which is known
only once they are read.
"""

import dataclasses
import math
from typing import Any

from transformer.config import Config, OptimizerConfig
from transformer.errors import InputError

# What is logged, validated, saved, kept and searched, and how a step is computed where that only changes rounding.
FREE = {
    "run_dir",
    "average",
    "compilation_cache",
    "data.tags",
    "model.scan_unroll",
    *(
        f"training.{name}"
        for name in (
            "log_every",
            "validate_every",
            "save_every",
            "save_minutes",
            "validation_bleu",
            "patience",
            "keep_last",
        )
    ),
}
# Where the data come from, and how they are read.
SOURCES = {
    *(
        f"data.{name}"
        for name in (
            "corpus",
            "corpus_config",
            "train",
            "validation",
            "test",
            "split_key",
            "tsv_columns",
            "drop_empty",
            "drop_duplicates",
        )
    ),
    "tokenizer.file",
}


def changes(before: Config, now: Config, step: int) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, each with its value before and now; `run_dir` is not among them.

    Args:
        before: The run's config.
        now: The config that it is to be resumed with.
        step: Updates made so far.

    Raises: InputError, naming the field, if one differs that changes the next step.
    """
    old, new = _fields(before), _fields(now)
    found = {name: (old[name], new[name]) for name in new if old[name] != new[name] and name != "run_dir"}
    for name, (there, here) in found.items():
        reason = _obstacle(name, before, now, step)
        if reason is not None:
            raise InputError(f"{name} is {there!r} there and {here!r} here{reason}")
    return found


def _obstacle(name: str, before: Config, now: Config, step: int) -> str | None:
    """Why a field may not change, as the end of a sentence; None if it may."""
    if name in FREE or name in SOURCES or name.startswith(("search.", "scores.")):
        return None
    if name == "training.accumulation_steps" and now.model.norm != "batch":
        return None
    if name == "training.steps":
        if now.training.steps < step:
            return f", but {step} steps are made already."
        if step <= min(_independent_updates(config.optimizer, config.training.steps) for config in (before, now)):
            return None
        return f", which would have changed the learning rate of the {step} steps made so far."
    return "."


def _independent_updates(optimizer: OptimizerConfig, steps: int) -> float:
    """How many updates, from the first, have a learning rate that does not depend on `steps`."""
    if optimizer.schedule == "paper":
        return math.inf
    if optimizer.schedule in ("inverse_sqrt", "warmup_stable_decay"):
        ending = round(optimizer.final_fraction * steps)
        return float(steps - ending + 1) if ending else math.inf
    return float(optimizer.warmup_steps)  # every other schedule is assumed to depend on `steps` after the warm-up


def _fields(config: Config) -> dict[str, Any]:
    fields = {}
    for name, value in dataclasses.asdict(config).items():
        fields |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return fields

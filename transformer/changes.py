"""The fields of a config that may change when its run is resumed or fine-tuned.

When a run is resumed, a field may change unless it changes the next step. So the resumed run makes the same updates as
an uninterrupted run with the new config. The location of the data may change as long as their content does not, which
is checked once the data are read. When a run is fine-tuned, a field may change unless the parameters depend on it.
"""

import dataclasses
import math
from typing import Any

from transformer.config import Config, OptimizerConfig
from transformer.errors import InputError

NAMED = 4  # options that a refusal names; it counts the others
# Fields that say what is logged, validated, saved, kept and searched, or that change a step by rounding only.
FREE = {
    "run_dir",
    "average",
    "compilation_cache",
    "data.cache",
    "deterministic",
    "data.tags",
    *(f"parallel.{name}" for name in ("strategy", "data", "fsdp", "tensor")),
    "model.rematerialization",
    "model.scan_unroll",
    *(
        f"training.{name}"
        for name in (
            "log_every",
            "loggers",
            "validate_every",
            "save_every",
            "save_minutes",
            "validation_bleu",
            "patience",
            "max_skipped_steps",
            "keep_last",
        )
    ),
}
# Fields that say where the data come from and how they are read.
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
            "allow_empty",
            "drop_duplicates",
        )
    ),
    "tokenizer.file",
}
# Fields of the model that change what it computes by rounding only.
ROUNDING = {"dtype", "matmul_precision", "implementation", "attention", "scan_unroll", "rematerialization"}
# Fields of the model that change neither its parameters nor what they compute when translating, except by rounding.
NOT_OF_THE_PARAMETERS = {
    f"model.{name}"
    for name in (
        *ROUNDING,
        "batch_norm_momentum",
        "max_positions",
        "dropout",
        "attention_dropout",
        "activation_dropout",
    )
}
# Fields of other parts that say which token ids a text has.
OF_THE_TOKENS = {"data.normalization", "tokenizer.pad_id", "tokenizer.start_id", "tokenizer.end_id"}


def changes(before: Config, now: Config, step: int) -> dict[str, tuple[Any, Any]]:
    """Compares a run's config with the one to resume it with.

    Args:
        before: Config of the run.
        now: Config to resume the run with.
        step: Number of updates made so far.

    Returns:
        The values before and now of each field that differs, by its name such as `training.steps`. `run_dir` is left
        out.

    Raises:
        InputError: Fields differ that change the next step. The message names them, at most `NAMED`.
    """
    old, new = _fields(before), _fields(now)
    found = {name: (old[name], new[name]) for name in new if old[name] != new[name] and name != "run_dir"}
    refused = [
        f"--{name.replace('_', '-')} was {there!r:.300} and is now {here!r:.300}{reason}"
        for name, (there, here) in found.items()
        if (reason := _obstacle(name, before, now, step)) is not None
    ]
    if refused:
        raise InputError(f"{_listed(refused)}.")
    return found


def other_model(origin: Config, now: Config) -> str:
    """Compares the models of two configs: what they compute from which token ids.

    Args:
        origin: Config of a run.
        now: Config of a run that is to start from its parameters.

    Returns:
        The options that differ with both values, at most `NAMED`. Empty if the parameters can be used.
    """
    old, new = _fields(origin), _fields(now)
    fixed = {name for name in new if name.startswith("model.")} - NOT_OF_THE_PARAMETERS | OF_THE_TOKENS
    if now.model.positions == "learned":
        fixed.add("model.max_positions")
    different = [name for name in new if name in fixed and old[name] != new[name]]
    return _listed(
        [f"--{name.replace('_', '-')} was {old[name]!r:.300} and is now {new[name]!r:.300}" for name in different]
    )


def _listed(reasons: list[str]) -> str:
    more = [f"{len(reasons) - NAMED} more options differ"] if len(reasons) > NAMED else []
    return ", and ".join(reasons[:NAMED] + more)


def _obstacle(name: str, before: Config, now: Config, step: int) -> str | None:
    """Returns why a field may not change, to be added to a sentence, or None if it may. Mostly no reason is needed."""
    if name in FREE or name in SOURCES or name.startswith(("search.", "scores.")):
        return None
    if name == "training.accumulation_steps" and now.model.norm != "batch":
        return None
    if name == "training.steps":
        if now.training.steps < step:
            return f", but {step} steps have already been made"
        if step <= min(_independent_updates(config.optimizer, config.training.steps) for config in (before, now)):
            return None
        return f", which would have changed the learning rate of the {step} steps made so far"
    return ""


def _independent_updates(optimizer: OptimizerConfig, steps: int) -> float:
    """Counts the first updates whose learning rate does not depend on `steps`."""
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

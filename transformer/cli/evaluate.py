"""`transformer evaluate`: score a run on its test set, or on other files."""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.cli.decoding import DecodingOptions, load_members, parse, prepare
from transformer.cli.pairs import PairOptions, checked_metrics, given_pairs
from transformer.errors import InputError
from transformer.files import check_writable
from transformer.runtime import share_device_memory

if TYPE_CHECKING:
    from transformer.data.corpus import Pairs
    from transformer.inference.metrics import Metrics


@dataclass(frozen=True)
class EvaluationOptions(PairOptions, DecodingOptions):
    """Score a run: BLEU, chrF and TER with sacreBLEU's signatures, exact match, loss and perplexity."""

    output: str | None = None
    """A new folder for scores.json, hypotheses.txt (the translations, one a line), and what they are of: the test set,
    and the search, checkpoint and compute type in evaluation.json. `transformer compare` takes it as it takes a run."""
    json: bool = False
    """Print JSON instead of a table; besides the scores it has the checkpoints, search, compute type and test set."""
    watch: bool = False
    """Score each checkpoint as it appears, a line each, until the run has ended: beside the training, on any
    machine that sees the run directory, and with no more of a GPU's memory than it needs. The run's
    evaluation/STEP, or STEP in the folder of --output, keeps what --output keeps of one evaluation. A step that is
    there already is not scored again."""
    interval: float = 30.0
    """With --watch: seconds to wait before looking for a new checkpoint again."""


def main(arguments: list[str]) -> None:
    """Score a run on its test set, or on other files."""
    options = parse(EvaluationOptions, arguments, "evaluate")
    if options.watch:
        _watch(options)
        return
    if options.output is not None:
        if Path(options.output).exists():
            raise InputError(f"--output {options.output} is there already: give the name of a new folder.")
        check_writable(options.output)
    pairs, metrics = _scored(options)
    translator, members = load_members(options)
    from transformer.inference.results import describe, evaluate, write_result

    scores, result = evaluate(translator, pairs, options.search, members, metrics)
    if scores.loss is None:
        print(
            "A line is longer than the model's positions: it is translated in segments, so there is no loss.",
            file=sys.stderr,
        )
    if options.json:
        values = json.loads(scores.to_json()) | {"evaluation": describe(result)}
        print(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        print(scores.to_text())
    if options.output is not None:
        write_result(Path(options.output), result, scores)


def _watch(options: EvaluationOptions) -> None:
    for name, given in (
        ("--checkpoint", options.checkpoint != "last"),
        ("--ensemble", options.ensemble != ()),
        ("--json", options.json),
    ):
        if given:
            raise InputError(f"{name} is for one evaluation: leave it out with --watch, which scores each checkpoint.")
    if options.interval <= 0:
        raise InputError(f"--interval must be positive, in seconds, but is {options.interval}.")
    share_device_memory()
    pairs, metrics = _scored(options)
    prepare(options)
    from transformer.inference.watch import watch

    watch(
        options.run,
        pairs,
        options.search,
        options.output,
        metrics=metrics,
        average=1 if options.average is None else options.average,
        dtype=options.dtype,
        interval=options.interval,
        report=partial(print, flush=True),
        note=partial(print, file=sys.stderr, flush=True),
    )


def _scored(options: EvaluationOptions) -> tuple["Pairs", "Metrics"]:
    """What is translated, and how it is scored."""
    from transformer.experiment import read_test_set
    from transformer.run_dir import read_config

    config = read_config(options.run)
    pairs = given_pairs(options, config.data)
    if pairs is None:
        pairs = read_test_set(options.run, config.data)
    return pairs, checked_metrics(options, config, pairs)

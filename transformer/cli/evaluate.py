"""The `transformer evaluate` command, which scores a run on a test set."""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.cli.decoding import DecodingOptions, load_members, parse, prepare
from transformer.cli.pairs import PairOptions, checked_metrics, given_pairs
from transformer.errors import InputError, require
from transformer.files import check_writable
from transformer.joining import joined
from transformer.runtime import share_device_memory

if TYPE_CHECKING:
    from transformer.data.corpus import Pairs
    from transformer.inference.metrics import Metrics


@dataclass(frozen=True)
class EvaluationOptions(PairOptions, DecodingOptions):
    """Score a run on its test set, or on other files.

    Prints BLEU, chrF and TER from 0 to 100, with sacreBLEU's signatures and 95 % intervals. Also prints exact match in
    percent, loss in nats per target token, and perplexity.

        transformer evaluate runs/quickstart
        transformer evaluate runs/mine --source test.en --reference test.de
        transformer evaluate runs/mine --watch"""

    output: str | None = None
    """A new folder for the results, which `transformer compare` accepts like a run: scores.json, hypotheses.txt (one
    translation per line), test.jsonl (the test set) and evaluation.json (search, checkpoints and compute dtype)."""
    json: bool = False
    """Print JSON instead of a table. It also contains the checkpoints, the search, the compute dtype and the test
    set."""
    watch: bool = False
    """Score each checkpoint as it appears, one line each, until the run has ended. Checkpoints are not averaged unless
    --average is given. This works on any machine that can read and write the run directory, and takes only as much of a
    GPU's memory as it needs. Results are kept in RUN/evaluation/STEP, or in STEP in the folder of --output. Steps that
    have results are not scored again."""
    interval: float = 30.0
    """With --watch: seconds to wait before checking for a new checkpoint again."""


def main(arguments: list[str]) -> None:
    """Scores a run on its test set, or on other files."""
    options = parse(EvaluationOptions, arguments, "evaluate")
    if options.watch:
        _watch(options)
        return
    if options.output is not None:
        if Path(options.output).exists():
            raise InputError(f"--output {options.output} already exists. Give the name of a new folder.")
        check_writable(options.output)
    pairs, metrics = _scored(options)
    translator, members = load_members(options)
    from transformer.inference.results import describe, evaluate, write_result
    from transformer.processes import is_first

    scores, result = evaluate(translator, pairs, options.search, members, metrics)
    if scores.loss is None:
        print(
            "No loss is computed: a line is longer than the model's positions and was translated in chunks.",
            file=sys.stderr,
        )
    if options.json:
        values = json.loads(scores.to_json()) | {"evaluation": describe(result)}
        print(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        print(scores.to_text())
    if options.output is not None and is_first():
        write_result(Path(options.output), result, scores)


def _watch(options: EvaluationOptions) -> None:
    require(not joined(), "--watch works in one process. Start one, or leave out --watch.")
    for name, given in (
        ("--checkpoint", options.checkpoint != "last"),
        ("--ensemble", options.ensemble != ()),
        ("--json", options.json),
    ):
        if given:
            raise InputError(f"{name} cannot be combined with --watch, which scores every checkpoint. Leave one out.")
    require(
        0 < options.interval <= 86_400,
        f"--interval must be positive and at most a day (86,400 seconds), but is {options.interval}.",
    )
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
    """The pairs to translate, and the metrics to score them with."""
    from transformer.kept_pairs import read_test_set
    from transformer.run_dir import read_config

    config = read_config(options.run)
    pairs = given_pairs(options, config.data)
    if pairs is None:
        pairs = read_test_set(options.run, config.data)
    return pairs, checked_metrics(options, config, pairs)

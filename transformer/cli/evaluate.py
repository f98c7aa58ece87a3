"""`transformer evaluate`: score a run on its test set, or on other files."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.cli.decoding import DecodingOptions, Member, load_translator, members_of, parse, prepare
from transformer.config import DataConfig
from transformer.errors import InputError
from transformer.files import check_writable

if TYPE_CHECKING:
    from transformer.data.corpus import Pairs
    from transformer.inference.evaluate import Scores
    from transformer.inference.translator import Translator


@dataclass(frozen=True)
class EvaluationOptions(DecodingOptions):
    """Score a run: BLEU and chrF with sacreBLEU's signatures, exact match, loss and perplexity."""

    source: str | None = None
    """Source sentences, one a line, instead of the run's test set; needs --reference."""
    reference: str | None = None
    """Their reference translations, one a line."""
    output: str | None = None
    """A new folder for scores.json, hypotheses.txt (the translations, one a line), and what they are of: the test set,
    and the search, checkpoint and compute type in evaluation.json. `transformer compare` takes it as it takes a run."""
    json: bool = False
    """Print JSON instead of a table."""
    watch: bool = False
    """Score each checkpoint as it appears, a line each, until the run has come to its end: beside the training, on any
    machine that sees the run directory. Its evaluation/STEP.json and STEP.txt keep scores and translations."""
    interval: float = 30.0
    """With --watch: seconds between two looks for a new checkpoint."""


def main(arguments: list[str]) -> None:
    """Score a run on its test set, or on other files."""
    options = parse(EvaluationOptions, arguments, "evaluate")
    if (options.source is None) != (options.reference is None):
        raise InputError("--source and --reference go together: line n of the one must translate line n of the other.")
    if options.watch:
        _watch(options)
        return
    if options.output is not None:
        if Path(options.output).exists():
            raise InputError(f"--output {options.output} is there already: give the name of a new folder.")
        check_writable(options.output)
    members = members_of(options)
    translator = load_translator(options, members=members)
    pairs = _read_pairs(options, translator.config.data)
    scores, hypotheses = translator.evaluate(pairs, options.search)
    if options.json:
        print(scores.to_json(), end="")
    else:
        print(scores.to_text())
    if options.output is not None:
        _keep(options.output, options, members, translator, pairs, scores, hypotheses)


def _keep(
    folder: str,
    options: EvaluationOptions,
    members: Sequence[Member],
    translator: "Translator",
    pairs: "Pairs",
    scores: "Scores",
    hypotheses: list[str],
) -> None:
    """Writes what `--output` promises."""
    from transformer.analysis.comparison import Result, settings, write_result
    from transformer.run_dir import training_data

    model = dataclasses.replace(translator.config.model, dtype=str(translator.model.dtype))
    config = dataclasses.replace(translator.config, search=options.search, model=model)
    result = Result(
        name=options.run,
        pairs=pairs,
        hypotheses=hypotheses,
        config=settings(config, members[0].steps, members[1:]),
        tokenizer=translator.tokenizer.fingerprint,
        training_data=training_data(options.run),
        signatures={"bleu": scores.bleu.signature, "chrf": scores.chrf.signature, "ter": scores.ter.signature},
    )
    write_result(Path(folder), result, scores.to_json())


def _watch(options: EvaluationOptions) -> None:
    for name, given in (
        ("--checkpoint", options.checkpoint != "last"),
        ("--ensemble", options.ensemble != ()),
        ("--output", options.output is not None),
        ("--json", options.json),
    ):
        if given:
            raise InputError(f"{name} is for one evaluation: leave it out with --watch, which scores each checkpoint.")
    if options.interval <= 0:
        raise InputError(f"--interval must be positive, in seconds, but is {options.interval}.")
    config = prepare(options)
    from transformer.inference.watch import watch

    watch(
        options.run,
        _read_pairs(options, config.data),
        options.search,
        average=1 if options.average is None else options.average,
        dtype=options.dtype,
        interval=options.interval,
        report=partial(print, flush=True),
    )


def _read_pairs(options: EvaluationOptions, data: DataConfig) -> "Pairs":
    from transformer.data.corpus import read_files
    from transformer.experiment import read_test_set

    if options.source is None or options.reference is None:
        return read_test_set(options.run, data)
    return read_files((options.source, options.reference), dataclasses.replace(data, tags=None))[0]

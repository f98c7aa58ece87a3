"""`transformer evaluate`: score a run on its test set, or on other files."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from transformer.cli.decoding import DecodingOptions, load_translator, parse
from transformer.errors import InputError
from transformer.files import write_lines


@dataclass(frozen=True)
class EvaluationOptions(DecodingOptions):
    """Score a run: BLEU and chrF with sacreBLEU's signatures, exact match, loss and perplexity."""

    source: str | None = None
    """Source sentences, one a line, instead of the run's test set; needs --reference."""
    reference: str | None = None
    """Their reference translations, one a line."""
    hypotheses: str | None = None
    """A file to write the translations to, one a line."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: list[str]) -> None:
    """Score a run on its test set, or on other files."""
    options = parse(EvaluationOptions, arguments, "evaluate")
    if (options.source is None) != (options.reference is None):
        raise InputError("--source and --reference go together: line n of the one must translate line n of the other.")
    translator = load_translator(options)
    from transformer.data.corpus import read_files
    from transformer.experiment import read_test_set

    config = translator.config
    if options.source is not None and options.reference is not None:
        files = dataclasses.replace(config.data, tags=None)
        pairs, _ = read_files((options.source, options.reference), files)
    else:
        pairs = read_test_set(options.run, config.data)
    scores, hypotheses = translator.evaluate(pairs, options.search)
    if options.hypotheses is not None:
        write_lines(Path(options.hypotheses), hypotheses)
    if options.json:
        print(scores.to_json(), end="")
    else:
        print(scores.to_text())

"""The `transformer score` command, which scores given translations."""

import json
from dataclasses import dataclass

from transformer.cli.decoding import DecodingOptions, load_translator, parse
from transformer.errors import InputError


@dataclass(frozen=True)
class ScoringOptions(DecodingOptions):
    """Print the log-probability of given translations, one line per sentence pair.

    A log-probability is in nats and summed over the tokens of the translation, including the end token. Of the search
    settings only --batch-tokens, the size of a batch, is used.

        transformer score runs/quickstart --source test.en --target test.de"""

    source: str | None = None
    """File of source sentences: text with one sentence per line, or TSV, JSONL or parquet, as in training. Required."""
    target: str | None = None
    """File of their translations, in the same formats. Required."""
    tokens: bool = False
    """Print a JSON object per pair instead: `log_probability`, the target tokens (`target_tokens`), and the
    log-probability of each (`log_probabilities`)."""


def main(arguments: list[str]) -> None:
    """Prints the log-probability of each given translation."""
    options = parse(ScoringOptions, arguments, "score")
    if options.source is None or options.target is None:
        missing = "--source" if options.source is None else "--target"
        raise InputError(f"{missing} is missing: line n of --target must translate line n of --source.")
    translator = load_translator(options)
    from transformer.data.corpus import read_parallel

    pairs = read_parallel(options.source, options.target, translator.config.data)
    found = translator.log_probabilities(pairs.sources, pairs.targets)
    tokenizer = translator.tokenizer
    for ids, log_probs in zip(tokenizer.target.encode_batch(pairs.targets), found, strict=True):
        total = float(log_probs.sum())
        if options.tokens:
            tokens = tokenizer.target.tokens([*ids, tokenizer.end_id])
            record = {"log_probability": total, "target_tokens": tokens, "log_probabilities": log_probs.tolist()}
            print(json.dumps(record, ensure_ascii=False))
        else:
            print(f"{total:.4f}")

"""`transformer score`: how probable a run finds given translations."""

import json
from dataclasses import dataclass

from transformer.cli.decoding import DecodingOptions, load_translator, parse
from transformer.errors import InputError


@dataclass(frozen=True)
class ScoringOptions(DecodingOptions):
    """Print the log-probability of each given translation, in nats, the end token counted: one line a pair."""

    source: str | None = None
    """File of source sentences: text with one a line, or TSV, JSONL or parquet, as in training."""
    target: str | None = None
    """File of their translations, in the same forms."""
    tokens: bool = False
    """Print a JSON object a pair instead: its pieces, and the log-probability of each."""


def main(arguments: list[str]) -> None:
    """Print the log-probability of each given translation."""
    options = parse(ScoringOptions, arguments, "score")
    if options.source is None or options.target is None:
        raise InputError("Scoring needs --source and --target: line n of the one must translate line n of the other.")
    translator = load_translator(options)
    from transformer.data.corpus import read_parallel

    pairs = read_parallel(options.source, options.target, translator.config.data)
    found = translator.log_probabilities(pairs.sources, pairs.targets)
    tokenizer = translator.tokenizer
    for ids, log_probs in zip(tokenizer.encode_batch(pairs.targets), found, strict=True):
        total = float(log_probs.sum())
        if options.tokens:
            pieces = tokenizer.pieces([*ids, tokenizer.end_id])
            record = {"log_probability": total, "pieces": pieces, "log_probabilities": log_probs.tolist()}
            print(json.dumps(record, ensure_ascii=False))
        else:
            print(f"{total:.4f}")

"""The evaluation set that a command is given as files, `--source` and `--reference`."""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from transformer.config import Config, DataConfig, ScoresConfig
from transformer.errors import InputError

if TYPE_CHECKING:
    from transformer.data.corpus import Pairs
    from transformer.inference.metrics import Metrics


@dataclass(frozen=True)
class PairOptions:
    """Which sentences are translated, and how the translations are scored."""

    source: str | None = None
    """File of source sentences, instead of the run's own: text with one sentence a line, or TSV, JSONL or parquet as
    for training. Text needs --reference."""
    reference: tuple[str, ...] = ()
    """Files of their reference translations, in the same forms; several give each sentence several references."""
    allow_empty: bool = False
    """Keep and count empty lines of these files, instead of stopping at the first."""
    scores: OmitArgPrefixes[ScoresConfig] = field(default_factory=ScoresConfig)


def given_pairs(options: PairOptions, data: DataConfig) -> "Pairs | None":
    """The pairs of the files, read as the run's own; None where none is given. Says how many have an empty side.

    Raises: InputError if only one of source and reference is given, or as `data.corpus.read_files` does.
    """
    if options.source is None and not options.reference:
        return None
    from transformer.data.corpus import is_file_of_pairs, read_references

    if options.source is None or not (options.reference or is_file_of_pairs(options.source)):
        raise InputError("--source and --reference go together: line n of the one must translate line n of the other.")
    empty = "keep" if options.allow_empty else "refuse"
    pairs = read_references(options.source, options.reference, data, empty=empty)
    if pairs.num_empty:
        print(f"{pairs.num_empty:,} of {len(pairs.sources):,} pairs have an empty side.", file=sys.stderr)
    return pairs


def checked_metrics(options: PairOptions, config: Config, pairs: "Pairs") -> "Metrics":
    """The metrics that were asked for, for the run's target language. Says what makes them misleading.

    Raises: InputError if one lacks its tokenizer: before anything is translated.
    """
    from transformer.inference.metrics import Metrics

    metrics = Metrics(options.scores, config.data.target_language)
    metrics.chosen()
    for warning in metrics.warnings(pairs.targets):
        print(f"warning: {warning}", file=sys.stderr)
    return metrics

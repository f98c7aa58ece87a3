"""The options `--source` and `--reference`, which name a test set in files."""

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
    """The sentences to translate, and how the translations are scored."""

    source: str | None = None
    """File of source sentences that replaces the run's own: text with one sentence per line, which needs --reference,
    or TSV, JSONL or parquet, as in training. Any may be compressed (.gz, .xz, .zst)."""
    reference: tuple[str, ...] = ()
    """Files of reference translations, in the same formats. Several files give each sentence several references."""
    allow_empty: bool = False
    """Keep and count pairs with an empty side in these files, instead of stopping at the first."""
    scores: OmitArgPrefixes[ScoresConfig] = field(default_factory=ScoresConfig)


def given_pairs(options: PairOptions, data: DataConfig) -> "Pairs | None":
    """The pairs in the given files, read like the run's own; None if no file is given.

    Reports on standard error how many pairs have an empty side.

    Raises: InputError if only one of source and reference is given, or if `data.corpus.read_references` raises it.
    """
    if options.source is None and not options.reference:
        return None
    from transformer.data.corpus import read_references
    from transformer.data.pair_files import is_file_of_pairs

    if options.source is None or not (options.reference or is_file_of_pairs(options.source)):
        missing = "--source" if options.source is None else "--reference"
        raise InputError(f"{missing} is missing: --source and --reference go together, line by line.")
    empty = "keep" if options.allow_empty else "refuse"
    pairs = read_references(options.source, options.reference, data, empty=empty)
    if pairs.num_empty:
        print(f"{pairs.num_empty:,} of {len(pairs.sources):,} pairs have an empty side.", file=sys.stderr)
    return pairs


def checked_metrics(options: PairOptions, config: Config, pairs: "Pairs") -> "Metrics":
    """The requested metrics, for the run's target language.

    Warns on standard error if they would mislead. Call this before anything is translated.

    Raises: InputError if the tokenizer of a metric is not installed.
    """
    from transformer.inference.metrics import Metrics

    metrics = Metrics(options.scores, config.data.target_language)
    metrics.chosen()
    for warning in metrics.warnings(pairs.targets):
        print(f"warning: {warning}", file=sys.stderr)
    return metrics

"""Settings of scoring."""

from dataclasses import dataclass
from typing import Literal

from transformer.config.bounds import Natural, check
from transformer.errors import require


@dataclass(frozen=True)
class ScoresConfig:
    """Metrics of sacreBLEU to compute, and their settings.

    The signature of each score records them.
    """

    metrics: tuple[Literal["bleu", "chrf", "ter"], ...] = ("bleu", "chrf", "ter")
    """Metrics to compute: BLEU, chrF and TER."""
    tokenize: Literal[
        "auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200", "spm", "char", "none"
    ] = "auto"
    """Tokenizer for BLEU and for lengths. `auto` is sacreBLEU's choice for
    the target language: zh, ja-mecab or ko-mecab, otherwise 13a.
    `flores101`, `flores200` and `spm` (the old name of flores101) are
    downloaded once."""
    lowercase: bool = False
    """Lowercase translations and references for BLEU and chrF. TER always
    ignores case, as in sacreBLEU."""
    chrf_word_order: Natural = 0
    """Length of the longest word n-gram in chrF. 0 is chrF, 2 is chrF++."""

    def __post_init__(self) -> None:
        check(self, "scores")
        require(len(self.metrics) > 0, "scores.metrics is empty. Give one or more of bleu, chrf and ter.")

"""How translations are scored."""

from dataclasses import dataclass
from typing import Literal

from transformer.config.bounds import Natural, check
from transformer.errors import require


@dataclass(frozen=True)
class ScoresConfig:
    """Which of sacreBLEU's metrics are computed, and how. All of it is in their signatures."""

    metrics: tuple[Literal["bleu", "chrf", "ter"], ...] = ("bleu", "chrf", "ter")
    """Metrics to compute."""
    tokenize: Literal[
        "auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200", "spm", "char", "none"
    ] = "auto"
    """Tokenizer of BLEU and of lengths. `auto` is sacreBLEU's choice for the target language: zh, ja-mecab or ko-mecab,
    otherwise 13a. `flores101`, `flores200` and `spm` (flores101 under its old name) are downloaded once."""
    lowercase: bool = False
    """Lower-case both sides for BLEU and chrF. TER ignores case in any case, as sacreBLEU's does."""
    chrf_word_order: Natural = 0
    """Longest word n-grams in chrF; 2 is chrF++."""

    def __post_init__(self) -> None:
        check(self, "scores")
        require(len(self.metrics) > 0, "scores.metrics is empty: give bleu, chrf or ter.")

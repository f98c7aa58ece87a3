"""sacreBLEU's metrics as a config asks for them, with word boundaries that suit the target language."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF, CHRFScore
from sacrebleu.metrics.ter import TER, TERScore

from transformer.config import Config, ScoresConfig
from transformer.errors import InputError

# By the primary subtag of a language code: zh-CN and zho_Hans are Chinese, too.
TOKENIZERS = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("ko", "kor"), "ko-mecab"),
}
PACKAGES = {
    "ja-mecab": "sacrebleu[ja]",
    "ko-mecab": "sacrebleu[ko]",
    **dict.fromkeys(("flores101", "flores200"), "sentencepiece"),
}
# Scripts written without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters.
SPACELESS = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
LONGEST_WORD = 6  # characters that a word of these scripts has on average at most, wherever words are set apart


# Scores in Python's floats. Where a resampled corpus shares nothing with its references, or has only empty ones,
# sacreBLEU 2.6 has a 0.0 or 1.0 among numpy's float32, and Python's `statistics` refuses the mixture.
class _FloatCHRF(CHRF):
    def _compute_score_from_stats(self, stats: Any) -> CHRFScore:
        result = super()._compute_score_from_stats(stats)
        result.score = float(result.score)
        return result


class _FloatTER(TER):
    def _compute_score_from_stats(self, stats: Any) -> TERScore:
        result = super()._compute_score_from_stats(stats)
        result.score = float(result.score)
        return result


@dataclass(frozen=True)
class Metrics:
    """sacreBLEU's metrics for a target language.

    Attributes:
        config: which metrics, and how they are computed.
        language: code of the target language, such as `de` or `zh-CN`; it decides the tokenizer `auto`.
    """

    config: ScoresConfig = field(default_factory=ScoresConfig)
    language: str = ""

    @property
    def tokenize(self) -> str:
        """sacreBLEU's name of the tokenizer."""
        if self.config.tokenize == "auto":
            return TOKENIZERS.get(re.split("[-_]", self.language.lower())[0], "13a")
        return {"spm": "flores101"}.get(self.config.tokenize, self.config.tokenize)  # sacreBLEU gives up the name

    def bleu(self) -> BLEU:
        """BLEU (Papineni et al. 2002).

        Raises: InputError if the tokenizer needs a package that is not installed, or cannot be downloaded.
        """
        name, other = self.tokenize, "or choose another tokenizer with --tokenize (--scores.tokenize in training)."
        try:
            return BLEU(tokenize=name, lowercase=self.config.lowercase)
        except (ImportError, RuntimeError) as error:  # a RuntimeError of the mecab tokenizers
            if name not in PACKAGES:
                raise
            raise InputError(
                f"BLEU with the tokenizer {name} needs a package that is missing or unusable: pip install "
                f"'{PACKAGES[name]}', {other}"
            ) from error
        except OSError as error:
            raise InputError(
                f"The tokenizer {name} of BLEU cannot be downloaded ({error}): try again, {other}"
            ) from error

    def chrf(self) -> CHRF:
        """chrF (Popović 2015), or chrF++ (Popović 2017) with word bigrams."""
        return _FloatCHRF(word_order=self.config.chrf_word_order, lowercase=self.config.lowercase)

    def ter(self) -> TER:
        """TER (Snover et al. 2006). In Chinese and Japanese, each Chinese character is a word."""
        asian = {TOKENIZERS.get(re.split("[-_]", self.language.lower())[0]), self.tokenize} & {"zh", "ja-mecab"}
        return _FloatTER(normalized=bool(asian), asian_support=bool(asian))

    def chosen(self) -> dict[str, BLEU | CHRF | TER]:
        """The metrics of the config, by name, in the order bleu, chrf, ter.

        Raises: InputError if `bleu` does, or the seed of the bootstrap in SACREBLEU_SEED is not a number.
        """
        seed = os.environ.get("SACREBLEU_SEED", "none")
        if seed.lower() != "none" and not seed.isdecimal():
            raise InputError(f"SACREBLEU_SEED must be a whole number or none, but is {seed!r}: correct or unset it.")
        makers = {"bleu": self.bleu, "chrf": self.chrf, "ter": self.ter}
        return {name: make() for name, make in makers.items() if name in self.config.metrics}

    def warnings(self, references: Sequence[str]) -> tuple[str, ...]:
        """What makes scores against these references misleading, a sentence each."""
        if self.tokenize not in ("13a", "intl", "none") or not {"bleu", "ter"} & {*self.config.metrics}:
            return ()
        words = [word for reference in references for word in reference.split()]
        spaceless = [length for word in words if (length := len(SPACELESS.findall(word)))]
        if 2 * sum(spaceless) < sum(map(len, words)) or sum(spaceless) <= LONGEST_WORD * len(spaceless):
            return ()
        return (
            f"The references have no spaces between words, so BLEU and TER with the tokenizer {self.tokenize} compare "
            "whole sentences. Choose another one with --tokenize, such as zh, ja-mecab, flores200 or char, or rely on "
            "chrF.",
        )


def metrics_of(config: Config) -> Metrics:
    """The metrics that a run is scored with unless others are asked for."""
    return Metrics(config.scores, config.data.target_language)

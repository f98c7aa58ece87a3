"""The metrics of sacreBLEU, with a tokenizer that suits the target language."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF, CHRFScore
from sacrebleu.metrics.ter import TER, TERScore

from transformer.config import Config, ScoresConfig
from transformer.data.corpus import Pairs, Split
from transformer.errors import InputError
from transformer.runtime import require_bootstrap_seed

# Tokenizers of sacreBLEU by the primary subtag of a language code, so that zh-CN and zho_Hans count as Chinese.
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
# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana and Chinese characters.
SPACELESS = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
LONGEST_WORD = 6  # characters; if words in these scripts are longer on average, they are not separated by spaces


# sacreBLEU 2.6 returns NumPy float32 scores, but a Python 0.0 or 1.0 if a resampled corpus shares nothing with its
# references or has only empty ones. The module `statistics` cannot mix the two types, so all scores become floats.
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
    """The metrics of sacreBLEU for a target language.

    Attributes:
        config: Which metrics to compute, and how.
        language: Code of the target language, such as `de` or `zh-CN`. It decides the tokenizer if that is `auto`.
    """

    config: ScoresConfig = field(default_factory=ScoresConfig)
    language: str = ""

    @property
    def tokenize(self) -> str:
        """The name of the tokenizer in sacreBLEU."""
        if self.config.tokenize == "auto":
            return TOKENIZERS.get(re.split("[-_]", self.language.lower())[0], "13a")
        return {"spm": "flores101"}.get(self.config.tokenize, self.config.tokenize)  # sacreBLEU deprecates "spm"

    def bleu(self) -> BLEU:
        """Makes the BLEU metric (Papineni et al. 2002).

        Raises:
            InputError: The tokenizer needs a package that is not installed, or its model cannot be downloaded.
        """
        name = self.tokenize
        given = name if self.config.tokenize == "auto" else self.config.tokenize
        other = "or choose another tokenizer with --tokenize (--scores.tokenize for train)."
        try:
            return BLEU(tokenize=name, lowercase=self.config.lowercase)
        except (ImportError, RuntimeError) as error:  # the MeCab tokenizers raise RuntimeError
            if name not in PACKAGES:
                raise
            raise InputError(
                f"BLEU with the tokenizer {given} needs a package that is missing or unusable. Run pip install "
                f"'{PACKAGES[name]}', {other}"
            ) from error
        except OSError as error:
            raise InputError(
                f"The tokenizer {given} of BLEU cannot be downloaded ({error}). Try again, {other}"
            ) from error

    def chrf(self) -> CHRF:
        """Makes the chrF metric (Popović 2015) or, with word n-grams, chrF++ (2017)."""
        return _FloatCHRF(word_order=self.config.chrf_word_order, lowercase=self.config.lowercase)

    def ter(self) -> TER:
        """Makes the TER metric (Snover et al. 2006).

        For Chinese and Japanese, each Chinese character counts as a word.
        """
        asian = {TOKENIZERS.get(re.split("[-_]", self.language.lower())[0]), self.tokenize} & {"zh", "ja-mecab"}
        return _FloatTER(normalized=bool(asian), asian_support=bool(asian))

    def chosen(self) -> dict[str, BLEU | CHRF | TER]:
        """Makes the metrics that the config names, in the order bleu, chrf, ter.

        Raises:
            InputError: The BLEU metric cannot be made, or the environment variable SACREBLEU_SEED (the seed of the
                bootstrap) is not a number.
        """
        require_bootstrap_seed()
        makers = {"bleu": self.bleu, "chrf": self.chrf, "ter": self.ter}
        return {name: make() for name, make in makers.items() if name in self.config.metrics}

    def warnings(self, references: Sequence[str]) -> tuple[str, ...]:
        """Explains what makes scores misleading, one sentence per problem.

        At present the only problem is text without spaces between words, for a tokenizer that relies on them.
        """
        if self.tokenize not in ("13a", "intl", "none") or not {"bleu", "ter"} & {*self.config.metrics}:
            return ()
        words = [word for reference in references for word in reference.split()]
        spaceless = [length for word in words if (length := len(SPACELESS.findall(word)))]
        if 2 * sum(spaceless) < sum(map(len, words)) or sum(spaceless) <= LONGEST_WORD * len(spaceless):
            return ()
        return (
            f"The references have no spaces between words, so BLEU and TER with the tokenizer {self.tokenize} treat "
            "each sentence as one word. Choose another tokenizer with --tokenize (for example zh, ja-mecab, flores200 "
            "or char), or use chrF.",
        )


def metrics_of(config: Config) -> Metrics:
    """The metrics that the config of a run specifies, for its target language."""
    return Metrics(config.scores, config.data.target_language)


def check_metrics(config: Config, pairs: Mapping[Split, Pairs]) -> None:
    """Prints warnings about misleading scores before training begins.

    Raises: InputError if a metric lacks its tokenizer.
    """
    metrics = metrics_of(config)
    scored = [pairs["test"]] if "test" in pairs else []
    if scored:
        metrics.chosen()
    if "validation" in pairs and config.training.validation_bleu:
        metrics.bleu()
        scored.append(pairs["validation"])
    for warning in dict.fromkeys(warning for own in scored for warning in metrics.warnings(own.targets)):
        print(f"warning: {warning}")

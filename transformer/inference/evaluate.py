"""Scores of translations that others can compare with.

BLEU, chrF and TER are computed by sacreBLEU, with their signatures and confidence intervals.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from transformer.errors import InputError
from transformer.inference.metrics import Metrics

LENGTHS = ((0, 10), (11, 20), (21, 30), (31, 50), (51, None))  # ranges of reference lengths, in tokens of BLEU


@dataclass(frozen=True)
class Score:
    """The value of one metric for a corpus.

    Attributes:
        name: The name that sacreBLEU gives the metric: BLEU, chrF2, chrF2++ or TER.
        score: The value, from 0 to 100. TER may exceed 100.
        signature: The signature of sacreBLEU, which says how the value was computed. Quote it with the value.
        interval: Lower and upper end of the 95 % bootstrap confidence interval.
    """

    name: str
    score: float
    signature: str
    interval: tuple[float, float]


@dataclass(frozen=True)
class BleuScore(Score):
    """A BLEU score with its components. Lengths are in tokens of `tokenizer`.

    Attributes:
        tokenizer: Name of sacreBLEU's tokenizer, as in the signature.
        precisions: Precisions of 1-grams to 4-grams, in percent.
        brevity_penalty: Factor that penalizes translations that are too short; 1 is no penalty.
        translation_length: Number of tokens of all translations.
        reference_length: Number of tokens of the references. If a sentence has several, the one closest in length
            counts.
    """

    tokenizer: str
    precisions: tuple[float, ...]
    brevity_penalty: float
    translation_length: int
    reference_length: int


@dataclass(frozen=True)
class ExactMatch:
    """The share of translations that equal a reference exactly.

    Attributes:
        score: Percentage of the sentences.
        sentences: Number of sentences.
    """

    score: float
    sentences: int


@dataclass(frozen=True)
class LengthBucket:
    """The BLEU score of sentences whose first reference has a length in some range.

    Attributes:
        score: BLEU, as the metrics of the config compute it.
        sentences: Number of sentences.
    """

    score: float
    sentences: int


@dataclass(frozen=True)
class Scores:
    """The scores of a translated test set.

    Attributes:
        by_metric: Score of each metric that was computed, by its name in the config.
        bleu_by_length: BLEU of the sentences in each range of reference lengths, in tokens of BLEU's tokenizer.
        exact_match: Exact matches among all sentences.
        exact_match_by_tag: Exact matches among the sentences with each tag. Empty if the sentences have no tags.
        loss: Loss of the references in nats per target token, including the end token, without label smoothing. With
            several references per sentence, the first one counts. None if the loss was not computed.
        warnings: Explanations of what makes the scores misleading, one sentence per problem.
    """

    by_metric: dict[str, Score]
    bleu_by_length: dict[str, LengthBucket]
    exact_match: ExactMatch
    exact_match_by_tag: dict[str, ExactMatch]
    loss: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def bleu(self) -> BleuScore:
        """The BLEU score of the detokenized text.

        Raises:
            InputError: The metric was not computed. The same holds for `chrf` and `ter`.
        """
        score = self._of("bleu")
        assert isinstance(score, BleuScore)
        return score

    @property
    def chrf(self) -> Score:
        """The character n-gram F-score, chrF2 or chrF2++."""
        return self._of("chrf")

    @property
    def ter(self) -> Score:
        """The translation edit rate in percent of the reference words; lower is better."""
        return self._of("ter")

    def _of(self, metric: str) -> Score:
        if metric not in self.by_metric:
            raise InputError(
                f"The score {metric} was not computed, only {', '.join(self.by_metric)}. Name it in scores.metrics "
                "(--metrics)."
            )
        return self.by_metric[metric]

    @property
    def length_ratio(self) -> float | None:
        """The length of the translations divided by the length of the references.

        Lengths are in tokens of BLEU's tokenizer. None if BLEU was not computed.
        """
        if "bleu" not in self.by_metric:
            return None
        return self.bleu.translation_length / max(self.bleu.reference_length, 1)

    @property
    def perplexity(self) -> float | None:
        """The perplexity exp(loss) per token of the vocabulary.

        It is comparable only between models with the same vocabulary. None if the loss was not computed.
        """
        try:
            return None if self.loss is None else math.exp(self.loss)
        except OverflowError:
            return math.inf

    def to_json(self) -> str:
        """Formats the scores as the JSON of `scores.json`.

        The keys of `by_metric`, with the fields of each score, and the other attributes of this class.
        """
        values = dataclasses.asdict(self)
        values = values.pop("by_metric") | {"length_ratio": self.length_ratio, **values, "perplexity": self.perplexity}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Formats the scores as a table.

        The table is plain text without columns of fixed width, so that no terminal truncates the signatures.
        """
        lines = []
        for score in self.by_metric.values():
            lower, upper = score.interval
            lines.append(f"{score.name:<11}{score.score:7.2f}  95 % in {lower:.2f} to {upper:.2f}  {score.signature}")
        if self.length_ratio is not None:
            unit = f"tokens ({self.bleu.tokenizer})"
            lines.append(f"{'length':<11}{self.length_ratio:7.3f}  {unit} of translations / of references")
        for length, bucket in self.bleu_by_length.items():
            lines.append(f"  {length:<5} tokens{bucket.score:6.2f}  BLEU of {bucket.sentences:,} sentences")
        if self.loss is not None:
            lines.append(f"{'loss':<11}{self.loss:7.4f}  nats per target token")
            lines.append(f"{'perplexity':<11}{self.perplexity:7.2f}")
        lines.append(f"{'exact match':<11}{self.exact_match.score:7.2f}  % of {self.exact_match.sentences:,} sentences")
        width = max(map(len, self.exact_match_by_tag), default=0)
        for tag, match in self.exact_match_by_tag.items():
            lines.append(f"  {tag:<{width}} {match.score:7.2f}  % of {match.sentences:,}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def score_translations(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    further_references: Sequence[Sequence[str]] = (),
    metrics: Metrics | None = None,
    tags: Sequence[Sequence[str]] | None = None,
    loss: float | None = None,
    bootstrap: int = 1000,
) -> Scores:
    """Scores translations with sacreBLEU (Post 2018) and exact match.

    The metrics are BLEU (Papineni et al. 2002), chrF (Popović 2015) and TER (Snover et al. 2006). They are computed on
    detokenized text, with case unless the config says otherwise.

    The confidence interval is the one of sacreBLEU's `--confidence`. It is the mean score of resampled corpora, plus
    and minus half the width of their middle 95 %. The seed is 12345, or SACREBLEU_SEED from the environment, and is
    part of the signature.

    Args:
        hypotheses: One translation per reference.
        references: The reference translations, as raw text.
        further_references: Second, third, ... references of all sentences.
        metrics: The metrics to compute. None computes all of them, for a language with spaces between words.
        tags: Tags of each sentence. Exact matches are also counted for each tag.
        loss: Loss of the same references, to keep with the scores.
        bootstrap: Number of resampled corpora for the interval, at least 2.

    Returns:
        The scores.

    Raises:
        InputError: There are no sentences, the numbers of hypotheses and references differ, or a metric lacks its
            tokenizer.
    """
    metrics = Metrics() if metrics is None else metrics
    every = [references, *further_references]
    for own in every:
        if len(hypotheses) != len(own):
            raise InputError(
                f"Cannot score {len(hypotheses)} translations against {len(own)} references. Give one reference for "
                "each translation."
            )
    if not references:
        raise InputError("Cannot score an empty test set. Give at least one translation and its reference.")
    by_metric = {name: _score(metric, hypotheses, every, bootstrap) for name, metric in metrics.chosen().items()}
    matches = [hypothesis in own for hypothesis, *own in zip(hypotheses, *every, strict=True)]
    by_tag: dict[str, list[bool]] = {}
    for match, own in zip(matches, tags or [()] * len(matches), strict=True):
        for tag in own:
            by_tag.setdefault(tag, []).append(match)
    return Scores(
        by_metric=by_metric,
        bleu_by_length=_bleu_by_length(hypotheses, every, metrics) if "bleu" in by_metric else {},
        exact_match=_exact_match(matches),
        exact_match_by_tag={tag: _exact_match(by_tag[tag]) for tag in sorted(by_tag)},
        loss=loss,
        warnings=metrics.warnings(references),
    )


def _score(
    metric: BLEU | CHRF | TER, hypotheses: Sequence[str], references: Sequence[Sequence[str]], bootstrap: int
) -> Score:
    found: Any = metric.corpus_score(hypotheses, references, n_bootstrap=bootstrap)
    mean, half_width = float(found._mean), float(found._ci)  # sacreBLEU 2.6 has no public attributes for these
    interval = (mean - half_width, mean + half_width)
    score = Score(found.name, float(found.score), str(metric.get_signature()), interval)
    if not isinstance(metric, BLEU):
        return score
    return BleuScore(
        **vars(score),
        tokenizer=metric.tokenizer.signature(),
        precisions=tuple(map(float, found.precisions)),
        brevity_penalty=float(found.bp),
        translation_length=int(found.sys_len),
        reference_length=int(found.ref_len),
    )


def _exact_match(matches: list[bool]) -> ExactMatch:
    return ExactMatch(100 * sum(matches) / len(matches), len(matches))


def _bleu_by_length(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], metrics: Metrics
) -> dict[str, LengthBucket]:
    tokenizer, found = metrics.bleu().tokenizer, {}
    lengths = [len(tokenizer(reference.rstrip()).split()) for reference in references[0]]
    for low, high in LENGTHS:
        own = [index for index, length in enumerate(lengths) if low <= length and (high is None or length <= high)]
        if own:
            chosen, *texts = ([column[index] for index in own] for column in (hypotheses, *references))
            score = bleu(chosen, texts[0], texts[1:], metrics)
            found[f"{low}-{high}" if high else f"{low}+"] = LengthBucket(score, len(own))
    return found


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    further_references: Sequence[Sequence[str]] = (),
    metrics: Metrics | None = None,
) -> float:
    """Computes the BLEU score of `score_translations`, without an interval."""
    metrics = Metrics() if metrics is None else metrics
    return float(metrics.bleu().corpus_score(hypotheses, [references, *further_references]).score)

"""Numbers that others can compare with: sacreBLEU's BLEU, chrF, TER with signature and interval; exact match, loss."""

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

LENGTHS = ((0, 10), (11, 20), (21, 30), (31, 50), (51, None))  # of references in tokens: BLEU is broken down by them


@dataclass(frozen=True)
class Score:
    """A metric's value for a corpus, from 0 to 100 (TER may exceed it).

    Attributes:
        name: sacreBLEU's: BLEU, chrF2, chrF2++, TER.
        score: the value.
        signature: sacreBLEU's: how it was computed, to be quoted with it.
        interval: lower and upper end of the 95 % bootstrap confidence interval.
    """

    name: str
    score: float
    signature: str
    interval: tuple[float, float]


@dataclass(frozen=True)
class BleuScore(Score):
    """BLEU with its parts. Lengths are in tokens of `tokenizer`.

    Attributes:
        tokenizer: its name in the signature.
        precisions: of 1-grams to 4-grams, in percent.
        brevity_penalty: the factor for translations that are too short; 1 is none.
        translation_length: tokens of all translations.
        reference_length: tokens of the references, of several for a sentence the one closest in length.
    """

    tokenizer: str
    precisions: tuple[float, ...]
    brevity_penalty: float
    translation_length: int
    reference_length: int


@dataclass(frozen=True)
class ExactMatch:
    """How many translations are the reference, or one of several, character by character.

    Attributes:
        score: percent of the sentences.
        sentences: their number.
    """

    score: float
    sentences: int


@dataclass(frozen=True)
class LengthBucket:
    """BLEU of the sentences whose first reference has a length in some range, without an interval.

    Attributes:
        score: cased BLEU.
        sentences: their number.
    """

    score: float
    sentences: int


@dataclass(frozen=True)
class Scores:
    """What a translated test set was worth.

    Attributes:
        by_metric: the scores of the metrics that were asked for, by the metric's name in the config.
        bleu_by_length: BLEU of the sentences in each range of reference lengths, in tokens as BLEU counts them.
        exact_match: of all sentences.
        exact_match_by_tag: of the sentences with each tag, by its name; empty where the sentences have none.
        loss: nats per target token given the source and the tokens before it, the end token counted, without label
            smoothing; None where it was not computed. Of several references, it is the loss of the first.
        warnings: what makes the scores misleading, a sentence each.
    """

    by_metric: dict[str, Score]
    bleu_by_length: dict[str, LengthBucket]
    exact_match: ExactMatch
    exact_match_by_tag: dict[str, ExactMatch]
    loss: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def bleu(self) -> BleuScore:
        """BLEU of detokenized text.

        Raises: InputError, like `chrf` and `ter`, if the metric was not asked for.
        """
        score = self._of("bleu")
        assert isinstance(score, BleuScore)
        return score

    @property
    def chrf(self) -> Score:
        """Character F-score: chrF2, or chrF2++."""
        return self._of("chrf")

    @property
    def ter(self) -> Score:
        """Edits, shifts included, in percent of the references' words: the lower the better."""
        return self._of("ter")

    def _of(self, metric: str) -> Score:
        if metric not in self.by_metric:
            raise InputError(f"scores.metrics does not name {metric}: only {', '.join(self.by_metric)} was computed.")
        return self.by_metric[metric]

    @property
    def length_ratio(self) -> float | None:
        """Tokens of the translations over tokens of the references, as BLEU counts them; None without BLEU."""
        if "bleu" not in self.by_metric:
            return None
        return self.bleu.translation_length / max(self.bleu.reference_length, 1)

    @property
    def perplexity(self) -> float | None:
        """exp(loss), per token of this model's own vocabulary: comparable between models that share it only."""
        return None if self.loss is None else math.exp(self.loss)

    def to_json(self) -> str:
        """`scores.json`: bleu.score, bleu.signature, bleu.interval, the same of chrf, exact_match.score, loss ..."""
        values = dataclasses.asdict(self)
        values = values.pop("by_metric") | {"length_ratio": self.length_ratio, **values, "perplexity": self.perplexity}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """The same for people: a table in plain text, so that no terminal cuts the signatures off."""
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
    """BLEU (Papineni et al. 2002), chrF (Popović 2015) and TER (Snover et al. 2006), by sacreBLEU (Post 2018).

    All are computed on the text as it is: detokenized, cased. The interval is that of sacreBLEU's `--confidence`: the
    mean of the resampled corpora's scores, plus and minus half the width of their middle 95 %. Its seed is fixed
    (12345, or else the environment's SACREBLEU_SEED) and stands in the signature.

    Args:
        hypotheses: a translation for each reference.
        references: the raw reference translations.
        further_references: second, third, ... references of every sentence.
        metrics: which metrics, and how they are computed; by default all, for a language with spaces.
        tags: what each sentence has been tagged with, to break exact match down.
        loss: of the same references, to be kept with the scores.
        bootstrap: corpora resampled for the interval, at least 2.

    Raises:
        InputError: there are no sentences, not as many hypotheses as references, or a metric lacks its tokenizer.
    """
    metrics = Metrics() if metrics is None else metrics
    every = [references, *further_references]
    for own in every:
        if len(hypotheses) != len(own):
            raise InputError(
                f"Scoring needs one reference for each translation, but there are {len(hypotheses)} translations and "
                f"{len(own)} references."
            )
    if not references:
        raise InputError("There is nothing to score: the references are empty.")
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
    mean, half_width = float(found._mean), float(found._ci)  # sacreBLEU has no public name for them
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
    """The BLEU of `score_translations` alone, without an interval."""
    metrics = Metrics() if metrics is None else metrics
    return float(metrics.bleu().corpus_score(hypotheses, [references, *further_references]).score)

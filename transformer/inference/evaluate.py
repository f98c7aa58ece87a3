"""Numbers that others can compare with: sacreBLEU's BLEU, chrF, TER with signature and interval; exact match, loss."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF, CHRFScore
from sacrebleu.metrics.ter import TER

from transformer.errors import InputError

LENGTHS = ((0, 10), (11, 20), (21, 30), (31, 50), (51, None))  # of references in words: scores are broken down by them


@dataclass(frozen=True)
class Score:
    """A metric's value for a corpus, from 0 to 100 (TER may exceed it).

    Attributes:
        score: the value.
        signature: sacreBLEU's: how it was computed, to be quoted with it.
        interval: lower and upper end of the 95 % bootstrap confidence interval.
    """

    score: float
    signature: str
    interval: tuple[float, float]


@dataclass(frozen=True)
class ExactMatch:
    """How many translations are the reference, character by character.

    Attributes:
        score: percent of the sentences.
        sentences: their number.
    """

    score: float
    sentences: int


@dataclass(frozen=True)
class LengthBucket:
    """BLEU of the sentences whose reference has so many words, without an interval.

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
        bleu: cased BLEU of detokenized text, tokenized as `13a`.
        chrf: character F-score (chrF2).
        ter: edits, shifts included, in percent of the references' words: the lower the better.
        length_ratio: words of the translations over words of the references, tokenized as for BLEU.
        bleu_by_length: of the sentences in each range of reference lengths in words, split at spaces.
        exact_match: of all sentences.
        exact_match_by_tag: of the sentences with each tag, by its name; empty where the sentences have none.
        loss: nats per target token given the source and the tokens before it, the end token counted, without label
            smoothing; None where it was not computed.
    """

    bleu: Score
    chrf: Score
    ter: Score
    length_ratio: float
    bleu_by_length: dict[str, LengthBucket]
    exact_match: ExactMatch
    exact_match_by_tag: dict[str, ExactMatch]
    loss: float | None = None

    @property
    def perplexity(self) -> float | None:
        """exp(loss), per token of this model's own vocabulary: comparable between models that share it only."""
        return None if self.loss is None else math.exp(self.loss)

    def to_json(self) -> str:
        """`scores.json`: bleu.score, bleu.signature, bleu.interval, the same of chrf, exact_match.score, loss ..."""
        values = dataclasses.asdict(self) | {"perplexity": self.perplexity}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """The same for people: a table in plain text, so that no terminal cuts the signatures off."""
        lines = []
        for name, score in (("BLEU", self.bleu), ("chrF2", self.chrf), ("TER", self.ter)):
            lower, upper = score.interval
            lines.append(f"{name:<11}{score.score:7.2f}  95 % in {lower:.2f} to {upper:.2f}  {score.signature}")
        lines.append(f"{'length':<11}{self.length_ratio:7.3f}  words of translations / words of references")
        for words, bucket in self.bleu_by_length.items():
            lines.append(f"  {words:<5} words {bucket.score:6.2f}  BLEU of {bucket.sentences:,} sentences")
        if self.loss is not None:
            lines.append(f"{'loss':<11}{self.loss:7.4f}  nats per target token")
            lines.append(f"{'perplexity':<11}{self.perplexity:7.2f}")
        lines.append(f"{'exact match':<11}{self.exact_match.score:7.2f}  % of {self.exact_match.sentences:,} sentences")
        width = max(map(len, self.exact_match_by_tag), default=0)
        for tag, match in self.exact_match_by_tag.items():
            lines.append(f"  {tag:<{width}} {match.score:7.2f}  % of {match.sentences:,}")
        return "\n".join(lines)


class _FloatCHRF(CHRF):
    """chrF in Python's floats. Where a resampled corpus shares nothing with its references, sacreBLEU 2.6 has a 0.0
    among numpy's float32, and Python's `statistics` refuses the mixture."""

    def _compute_score_from_stats(self, stats: Any) -> CHRFScore:
        result = super()._compute_score_from_stats(stats)
        result.score = float(result.score)
        return result


def score_translations(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
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
        tags: what each sentence has been tagged with, to break exact match down.
        loss: of the same references, to be kept with the scores.
        bootstrap: corpora resampled for the interval, at least 2.

    Raises:
        InputError: there are no sentences, or not as many hypotheses as references.
    """
    if len(hypotheses) != len(references):
        raise InputError(
            f"Scoring needs one reference for each translation, but there are {len(hypotheses)} translations and "
            f"{len(references)} references."
        )
    if not references:
        raise InputError("There is nothing to score: the references are empty.")

    def score(metric: BLEU | CHRF | TER) -> tuple[Score, Any]:
        result = metric.corpus_score(hypotheses, [references], n_bootstrap=bootstrap)
        mean, half_width = float(result._mean), float(result._ci)  # sacreBLEU has no public name for them
        return Score(float(result.score), str(metric.get_signature()), (mean - half_width, mean + half_width)), result

    matches = [hypothesis == reference for hypothesis, reference in zip(hypotheses, references, strict=True)]
    by_tag: dict[str, list[bool]] = {}
    for match, own in zip(matches, tags or [()] * len(matches), strict=True):
        for tag in own:
            by_tag.setdefault(tag, []).append(match)
    cased_bleu, counts = score(BLEU())
    return Scores(
        bleu=cased_bleu,
        chrf=score(_FloatCHRF())[0],
        ter=score(TER())[0],
        length_ratio=counts.sys_len / max(counts.ref_len, 1),
        bleu_by_length=_bleu_by_length(hypotheses, references),
        exact_match=_exact_match(matches),
        exact_match_by_tag={tag: _exact_match(by_tag[tag]) for tag in sorted(by_tag)},
        loss=loss,
    )


def _exact_match(matches: list[bool]) -> ExactMatch:
    return ExactMatch(100 * sum(matches) / len(matches), len(matches))


def _bleu_by_length(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, LengthBucket]:
    words = [len(reference.split()) for reference in references]
    found = {}
    for low, high in LENGTHS:
        own = [place for place, number in enumerate(words) if low <= number and (high is None or number <= high)]
        if own:
            score = bleu([hypotheses[place] for place in own], [references[place] for place in own])
            found[f"{low}-{high}" if high else f"{low}+"] = LengthBucket(score, len(own))
    return found


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The BLEU of `score_translations` alone, without an interval."""
    return BLEU().corpus_score(hypotheses, [references]).score

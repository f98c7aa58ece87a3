"""Comparison of beam sizes and length penalties on a validation set."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

from transformer.config import SearchConfig
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.inference.evaluate import bleu
from transformer.inference.metrics import Metrics, metrics_of
from transformer.inference.translation import Translation, translations
from transformer.inference.translator import Translator

Form = Literal["wu", "power"]


class Trial(NamedTuple):
    """The BLEU score of one beam size and length penalty.

    Attributes:
        beam_size: As in `SearchConfig`.
        length_penalty: As in `SearchConfig`.
        length_penalty_form: As in `SearchConfig`.
        bleu: BLEU of the translations that these settings rank first.
    """

    beam_size: int
    length_penalty: float
    length_penalty_form: Form
    bleu: float


def trials(
    translator: Translator,
    pairs: Pairs,
    search: SearchConfig,
    beam_sizes: Sequence[int],
    penalties: Sequence[float],
    metrics: Metrics | None = None,
) -> Iterator[Trial]:
    """Computes the BLEU score of each beam size with each length penalty.

    A length penalty does not affect which hypotheses a beam keeps. It only ranks those that have ended, and decides
    when to stop. One search without a penalty is therefore enough for each beam size, and its translations are
    re-ranked for each penalty.

    Args:
        translator: The model or ensemble.
        pairs: The sentences to translate, and their references.
        search: Further settings of the search. Its `num_best` is the number of translations to re-rank: a translation
            that is not among the `num_best` most probable ones is never chosen.
        beam_sizes: The beam sizes to try. A beam of 1 is greedy search, which has no penalty.
        penalties: The exponents to try, at least 0.
        metrics: How to compute BLEU. None uses the metrics of the run's config.

    Yields:
        The result of each combination, as soon as it is known.

    Raises:
        InputError: `search.sample` is set, or a sentence has more tokens than the model has positions.
    """
    if search.sample:
        raise InputError("Sampling has no length penalty to tune. Leave out --sample.")
    metrics = metrics_of(translator.config) if metrics is None else metrics
    for beam_size in beam_sizes:
        unranked = dataclasses.replace(search, beam_size=beam_size, length_penalty=0.0, long_input="refuse")
        # `n_best` would merge equal texts, but any of their tokenizations may rank highest with a penalty.
        found = list(translations(translator.members, translator.tokenizer, pairs.sources, unranked))
        for form, alpha in _grid(penalties if beam_size > 1 else (0.0,)):
            best = [max(own, key=partial(score, form=form, alpha=alpha)).text for own in found]
            yield Trial(beam_size, alpha, form, bleu(best, pairs.targets, pairs.further_references, metrics))


def _grid(penalties: Sequence[float]) -> list[tuple[Form, float]]:
    # With an exponent of 0 both forms are equal, so the second is left out.
    return [*(("wu", alpha) for alpha in penalties), *(("power", alpha) for alpha in penalties if alpha)]


def score(translation: Translation, form: Form, alpha: float) -> float:
    """Divides the log-probability of a translation by a length penalty (section 6.1).

    log P(Y | X) / penalty(|Y|),  penalty(L) = ((5 + L) / 6)^alpha  or  L^alpha

    Args:
        translation: A translation whose score is log P(Y | X). The translation of an empty sentence has no tokens.
        form: `wu` is the first form of the penalty above, `power` the second.
        alpha: The exponent, at least 0.
    """
    length = translation.tokens
    return translation.score / ((5 + length) / 6 if form == "wu" else max(length, 1)) ** alpha

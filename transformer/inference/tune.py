"""Beam size and length penalty chosen on a validation set: one search a beam size, its translations ranked anew."""

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
    """A beam size and a length penalty, with the BLEU that they reach; the names are those of `SearchConfig`."""

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
    """The BLEU of each beam size under each length penalty, in both forms.

    A length penalty does not steer a beam: it ranks what has ended, and decides when to stop. So one search a beam size
    is enough, without a penalty, whose translations are then ranked by each.

    Args:
        translator: the model.
        pairs: what is translated, and its references.
        search: what may be generated, and how many translations to rank (`num_best`). What ended in the beam and is not
            among the `num_best` most probable cannot be chosen by a penalty either.
        beam_sizes: a beam of 1 is greedy: it has no penalty.
        penalties: exponents, not negative.
        metrics: how BLEU is computed; as the run's config says unless given.

    Raises:
        InputError: the search draws samples, or a sentence has more tokens than the model has positions.
    """
    if search.sample:
        raise InputError("Only a beam search has a length penalty. Leave out --sample.")
    metrics = metrics_of(translator.config) if metrics is None else metrics
    for beam_size in beam_sizes:
        unranked = dataclasses.replace(search, beam_size=beam_size, length_penalty=0.0, long_input="refuse")
        # Not `n_best`: of one text in several tokenizations, any may rank highest under a penalty.
        found = list(translations(translator.members, translator.tokenizer, pairs.sources, unranked))
        for form, alpha in _grid(penalties if beam_size > 1 else (0.0,)):
            best = [max(own, key=partial(score, form=form, alpha=alpha)).text for own in found]
            yield Trial(beam_size, alpha, form, bleu(best, pairs.targets, pairs.further_references, metrics))


def _grid(penalties: Sequence[float]) -> list[tuple[Form, float]]:
    # Without a penalty, both forms are the same.
    return [*(("wu", alpha) for alpha in penalties), *(("power", alpha) for alpha in penalties if alpha)]


def score(translation: Translation, form: Form, alpha: float) -> float:
    """log P(Y | X) / penalty(|Y|),  penalty(L) = ((5 + L) / 6)^alpha  or  L^alpha   (section 6.1)

    Args:
        translation: its score is log P(Y | X); one of an empty sentence has no tokens.
        form: `wu` is the first form of the penalty, `power` the second.
        alpha: the exponent, not negative.
    """
    length = translation.tokens
    return translation.score / ((5 + length) / 6 if form == "wu" else max(length, 1)) ** alpha

"""Beam size and length penalty chosen on a validation set: one search a beam size, its translations ranked anew."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from transformer.config import SearchConfig
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.files import write_lines
from transformer.inference.decoding import longest_translation
from transformer.inference.evaluate import bleu
from transformer.inference.translator import Translation, Translator

Form = Literal["wu", "power"]


class Candidates(NamedTuple):
    """What a search has found of one sentence.

    translations: most probable first; their scores are log-probabilities.
    longest: no translation of this sentence has more tokens.
    complete: these are all that ended in the beam.
    """

    translations: list[Translation]
    longest: int
    complete: bool


class Trial(NamedTuple):
    """One way to search, and what it is worth.

    beam_size, form, alpha: `SearchConfig`'s beam_size, length_penalty_form and length_penalty.
    bleu: cased BLEU.
    proven: share of the sentences whose translation is certainly that of a search with this penalty.
    """

    beam_size: int
    form: Form
    alpha: float
    bleu: float
    proven: float


def candidates(translator: Translator, sources: Sequence[str], search: SearchConfig) -> list[Candidates]:
    """The `search.num_best` most probable translations of each sentence that a beam search comes across.

    Args:
        translator: the model.
        sources: the sentences.
        search: beam size, number, and what may be generated; its length penalty counts for nothing.

    Raises:
        InputError: the search draws samples; or a sentence has more tokens than the model has positions.
    """
    if search.sample:
        raise InputError("Only a search has a length penalty, but search.sample draws translations: leave it out.")
    search = dataclasses.replace(search, length_penalty=0.0, long_input="refuse")
    longest = longest_translation(translator.members, search)
    lengths = [len(ids) + 1 for ids in translator.tokenizer.encode_batch(sources)]
    return [
        Candidates(found, min(length + search.extra_length, longest), len(found) < search.num_best)
        for length, found in zip(lengths, translator.n_best(sources, search), strict=True)
    ]


def rank(found: Candidates, form: Form, alpha: float) -> tuple[Translation, bool]:
    """The best of the candidates under a length penalty, and whether it is proven to be that of a search with it.

    score(Y) = log P(Y | X) / penalty(|Y|),  penalty(L) = ((5 + L) / 6)^alpha  or  L^alpha   (section 6.1)

    The penalty decides which hypotheses that have ended are the best, and when a search may stop, but not which live
    ones the beam goes on with. So every search of one beam size walks the same way, and stops on it exactly when
    nothing that is still to come can be its best: its result is the best of all that end on the whole way. It is the
    one returned here if the candidates are all of them. Otherwise those that are missing are no more probable than the
    last candidate, P_N, and no longer than the longest translation, M: none scores above log P_N / penalty(M), and what
    scores at least as much is proven.

    Args:
        found: of one sentence.
        form: `wu` is the first form of the equation, `power` the second.
        alpha: the exponent, not negative.
    """

    def penalty(length: int) -> float:
        return ((5 + length) / 6 if form == "wu" else max(length, 1)) ** alpha

    best = max(found.translations, key=lambda translation: translation.score / penalty(translation.tokens))
    bound = found.translations[-1].score / penalty(found.longest)
    return best, found.complete or best.score / penalty(best.tokens) >= bound


def trials(
    found: Sequence[Candidates], references: Sequence[str], beam_size: int, grid: Sequence[float]
) -> list[Trial]:
    """BLEU under each length penalty; of a beam of 1, which is greedy, only without."""

    def trial(form: Form, alpha: float) -> Trial:
        ranked = [rank(own, form, alpha) for own in found]
        score = bleu([best.text for best, _ in ranked], references)
        return Trial(beam_size, form, alpha, score, sum(proven for _, proven in ranked) / len(ranked))

    if beam_size == 1:
        grid = (0.0,)
    # Without a penalty, both forms are the same.
    return [*(trial("wu", alpha) for alpha in grid), *(trial("power", alpha) for alpha in grid if alpha)]


def stored(translator: Translator, pairs: Pairs, search: SearchConfig, folder: Path) -> tuple[list[Candidates], bool]:
    """The `candidates` of the pairs, from a file in the folder if they are kept there, else searched and kept.

    The file is `beam-K.jsonl`: the first line says what it is of (parameters, data, search), the others have the
    candidates of a sentence each. Where that is not what is asked for, it is written anew.

    Returns:
        The candidates, and whether they were there.
    """
    file = folder / f"beam-{search.beam_size}.jsonl"
    about = _about(translator, pairs, search)
    if file.exists():
        with file.open(encoding="utf-8", newline="\n") as lines:
            if json.loads(next(lines)) == about:
                return [_read(line) for line in lines], True
    found = candidates(translator, pairs.sources, search)
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(file, [json.dumps(about), *(json.dumps(own, ensure_ascii=False) for own in found)])
    return found, False


def _read(line: str) -> Candidates:
    translations, longest, complete = json.loads(line)
    return Candidates([Translation(*values) for values in translations], longest, complete)


def _about(translator: Translator, pairs: Pairs, search: SearchConfig) -> dict[str, Any]:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([params for _, params in translator.members]):
        digest.update(np.asarray(leaf).tobytes())
    settings = {
        "parameters": digest.hexdigest(),
        "dtype": str(np.dtype(translator.model.dtype)),
        "data": pairs.fingerprint,
        "search": dataclasses.asdict(dataclasses.replace(search, length_penalty=0.0, length_penalty_form="wu")),
    }
    return json.loads(json.dumps(settings))  # as it is read again: tuples are lists there

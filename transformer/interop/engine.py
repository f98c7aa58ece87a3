"""Translation with CTranslate2 in place of JAX.

CTranslate2 searches without a length penalty, and what it finds is ranked as in `inference/search.py`. The scores are
log-probabilities of the model, so nothing may be renormalized: CTranslate2 would do so for every token that it must not
generate. Instead, a hypothesis with such a token counts as ended, and is dropped.
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ctranslate2
import numpy as np

from transformer.config import Config, SearchConfig
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.inference.backend import ACCELERATOR
from transformer.inference.cpu import CPU
from transformer.inference.translation import WINDOW, Translation, Window, distinct, one_lines, windows_of
from transformer.inference.tune import score

# A search ends when this many times the beam size of hypotheses have ended. Our own search ends when no hypothesis can
# become better. With 1 and a beam of 5, 3 of 500 translations of Multi30k differed from ours, and with 3 none did.
PATIENCE = 3
CALL = 128  # sentences in a call for each CPU core; Ctrl-C waits for the end of a call
SCORED = 1024  # target tokens whose logits are in memory at the same time, for each CPU core
# CTranslate2 lacks these settings, or renormalizes probabilities for them.
UNSUPPORTED = ("sample", "min_length", "no_repeat_ngram", "repetition_penalty", "forbidden", "prefix")


class Candidate(NamedTuple):
    """A hypothesis that may become a translation.

    Attributes:
        tokens: Its tokens without the end token.
        log_prob: Its log-probability, including the end token.
    """

    tokens: list[str]
    log_prob: float


class Engine:
    """A run that translates with CTranslate2, on a GPU if CTranslate2 finds one."""

    def __init__(self, directory: Path, config: Config, tokenizer: Tokenizer, compute_type: str) -> None:
        """Loads a model.

        Args:
            directory: The model, as `ctranslate2.make_spec` describes it.
            config: The config of the run.
            tokenizer: The tokenizer of the run.
            compute_type: One of CTranslate2's compute types, such as `float32` or `int8`.

        Raises:
            InputError: This machine does not support the compute type.
        """
        self._config, self._tokenizer = config, tokenizer
        self._source, self._target = tokenizer.source.spellings(), tokenizer.target.spellings()
        self._ids = {token: index for index, token in enumerate(self._target)}
        self._end = self._target[tokenizer.end_id]
        never = {tokenizer.pad_id, tokenizer.start_id, *tokenizer.target.suppressed} - {tokenizer.end_id}
        self._never = [self._target[index] for index in sorted(never) if index < len(self._target)]
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        supported = ctranslate2.get_supported_compute_types(device)
        if compute_type not in supported:
            known = ", ".join(sorted(supported))
            raise InputError(f"CTranslate2 cannot compute in {compute_type} on this {device}, only in {known}.")
        at_once = _cores() if device == "cpu" else 1
        self._call = CALL * at_once if device == "cpu" else WINDOW
        self._batch_tokens = (CPU if device == "cpu" else ACCELERATOR).batch_tokens
        threads = {"inter_threads": at_once, "intra_threads": 1}
        self._translator: Any = ctranslate2.Translator(str(directory), device, compute_type=compute_type, **threads)

    def windows(self, sentences: Iterable[str], search: SearchConfig) -> Iterator[Window]:
        """Translates as `Translator.windows` does.

        Raises:
            InputError: As there, or CTranslate2 cannot search like this.
        """
        check_search(search)

        def translate_chunks(sources: Sequence[Sequence[int]], _: np.ndarray) -> list[list[Translation]]:
            return self._translate(sources, search)

        longest = self._config.model.max_positions
        found = windows_of(translate_chunks, longest, self._tokenizer, sentences, search)
        return (window._replace(translations=[*map(distinct, window.translations)]) for window in found)

    def _translate(self, sources: Sequence[Sequence[int]], search: SearchConfig) -> list[list[Translation]]:
        """Finds translations of token ids, best first.

        CTranslate2 knows one maximum length for all sentences. The few sentences for which it makes a difference are
        searched again.
        """
        if not sources:
            return []
        longest = min(self._config.model.max_positions, search.max_length or self._config.model.max_positions)
        limits = [min(len(ids) + 1 + search.extra_length, longest) for ids in sources]
        named = [[self._source[index] for index in (*ids, self._tokenizer.end_id)] for ids in sources]
        found = self._search(named, search, limits)
        again = defaultdict[int, list[int]](list)
        for index, limit in enumerate(limits):
            if len(found[index]) < search.num_best:
                again[limit].append(index)
        for limit, indices in again.items():
            bounded = self._search_to_limit([named[index] for index in indices], search, limit)
            for index, own in zip(indices, bounded, strict=True):
                found[index] = own
        return [self._best(own, search) for own in found]

    def _search(self, sources: list[list[str]], search: SearchConfig, limits: Sequence[int]) -> list[list[Candidate]]:
        """Searches for each source; no candidates where its maximum length matters."""
        ends = [self._end, *self._never]
        results = self._run(
            sources, search, max_decoding_length=max(limits), end_token=ends, return_end_token=True, return_scores=True
        )
        found = []
        for result, limit in zip(results, limits, strict=True):
            own = [*zip(result.hypotheses, result.scores, strict=True)]
            is_bounded = any(len(tokens) > limit or tokens[-1] not in ends for tokens, _ in own)
            ended = [Candidate(tokens[:-1], log_prob) for tokens, log_prob in own if tokens[-1] == self._end]
            found.append([] if is_bounded else ended)
        return found

    def _search_to_limit(self, sources: list[list[str]], search: SearchConfig, limit: int) -> list[list[Candidate]]:
        """Searches with one maximum length, at which every hypothesis is forced to end."""
        found = [[[]] for _ in sources]
        if limit > 1:
            never = [[token] for token in self._never]
            results = self._run(sources, search, max_decoding_length=limit - 1, suppress_sequences=never)
            found = [result.hypotheses for result in results]
        pairs = [(source, tokens) for source, own in zip(sources, found, strict=True) for tokens in own]
        size = max(1, SCORED // limit)
        scores = self._translator.score_batch(
            *map(list, zip(*pairs, strict=True)), max_batch_size=size, max_input_length=0
        )
        scored = iter(scores)
        return [[Candidate(tokens, sum(next(scored).log_probs)) for tokens in own] for own in found]

    def _run(self, sources: list[list[str]], search: SearchConfig, **options: Any) -> list[Any]:
        """Searches for translations of sources, in calls with sources of similar length."""
        beam, results = search.beam_size, [None] * len(sources)
        order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
        for start in range(0, len(order), self._call):
            chosen = order[start : start + self._call]
            found = self._translator.translate_batch(
                [sources[index] for index in chosen],
                beam_size=beam,
                patience=PATIENCE,
                num_hypotheses=1 if beam == 1 else PATIENCE * beam,
                length_penalty=0,
                max_input_length=0,
                min_decoding_length=0,
                max_batch_size=max(1, (search.batch_tokens or self._batch_tokens) // beam),
                batch_type="tokens",
                **options,
            )
            for index, result in zip(chosen, found, strict=True):
                results[index] = result
        return results

    def _best(self, candidates: list[Candidate], search: SearchConfig) -> list[Translation]:
        """Decodes and ranks candidates. Without tokens, a translation has not been found."""
        texts = one_lines(self._tokenizer, [[self._ids[token] for token in tokens] for tokens, _ in candidates])
        alpha = search.length_penalty if search.beam_size > 1 else 0.0
        found = [Translation("", -math.inf, 0)] * search.num_best
        for text, (tokens, log_prob) in zip(texts, candidates, strict=True):
            unranked = Translation(text, log_prob, len(tokens) + 1)
            found.append(unranked._replace(score=score(unranked, search.length_penalty_form, alpha)))
        return sorted(found, key=lambda translation: -translation.score)[: search.num_best]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_search(search: SearchConfig) -> None:
    """Raises InputError if CTranslate2 cannot search like this."""
    default = SearchConfig()
    for name in UNSUPPORTED:
        if (value := getattr(search, name)) != getattr(default, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"CTranslate2 does not support {option} (it is {value!r}). Use --engine jax.")
    if search.num_best > search.beam_size:
        raise InputError(
            f"With CTranslate2, --num-best ({search.num_best}) must not exceed --beam-size ({search.beam_size})."
        )

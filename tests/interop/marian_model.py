"""The model that Marian trained (20,000 pairs of the embedded corpus, 1,800 updates), and what Marian says of it.

Marian 1.12.42 wrote the texts, with `--max-length 300`: `greedy` with `--beam-size 1 --n-best --word-scores`, `beam6`
with `--beam-size 6 --normalize 0.6 --n-best --word-scores`, `alignment` with `--alignment soft` as well.
"""

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transformer.config import SearchConfig
from transformer.inference import forced_decoding
from transformer.inference.backend import ACCELERATOR
from transformer.inference.cpu import CPU
from transformer.inference.decoding import decode
from transformer.inference.translation import search_ids
from transformer.inference.translator import Translator
from transformer.shapes import Batch

TINY = Path(__file__).parents[1] / "fixtures" / "marian-tiny"
LINES = (TINY / "input.txt").read_text("utf-8").split("\n")[:205]  # 200 sentences, and 5 that are hard to read
ORDINARY = LINES[:200]
BACKEND = ACCELERATOR._replace(top_k=CPU.top_k)


class Best(NamedTuple):
    """A hypothesis of Marian."""

    text: str
    word_scores: list[float]
    score: float


def hypotheses(text: str) -> list[list[Best]]:
    """Reads what Marian wrote with `--n-best --word-scores`: the hypotheses of each line, best first."""
    found: list[list[Best]] = []
    for line in text.splitlines():
        number, translation, scores, _, score = line.split(" ||| ")
        words = [float(word) for word in scores.removeprefix("WordScores= ").split()]
        if int(number) == len(found):
            found.append([])
        found[-1].append(Best(translation, words, float(score)))
    return found


def marian_says(name: str) -> list[list[Best]]:
    """Marian's hypotheses of each line, best first."""
    return hypotheses(lzma.decompress((TINY / f"{name}.txt.xz").read_bytes()).decode())


class Found(NamedTuple):
    """Our best hypothesis of a line."""

    tokens: list[int]
    score: float
    text: str


def search(run: Translator, sentences: Sequence[str], settings: SearchConfig) -> list[Found]:
    """Finds the best translation of each sentence, with its tokens."""
    sources, found = run.tokenizer.source.encode_batch(sentences), {}
    numbers, ids = np.arange(len(sources)), search_ids(run.tokenizer, settings)
    # A program without the CPU's growing cache: most of the time would be spent in compiling.
    for chosen, (tokens, scores, lengths) in decode(run.members, sources, numbers, settings, ids, BACKEND):
        for row, line in enumerate(chosen):
            own = tokens[row, 0, : lengths[row, 0]].tolist()
            found[line] = Found(own, float(scores[row, 0]), run.tokenizer.target.decode_batch([own])[0])
    return [found[line] for line in range(len(sources))]


def batch(run: Translator, sentences: Sequence[str], targets: Sequence[list[int]]) -> Batch:
    """Forces token ids, because a translation may be segmented otherwise than the same text would be."""
    sources = [[*ids, 0] for ids in run.tokenizer.source.encode_batch(sentences)]
    none = run.tokenizer.pad_id
    source, output = (
        np.array([ids + [none] * (max(map(len, rows)) - len(ids)) for ids in rows], np.int32)
        for rows in (sources, targets)
    )
    shifted = np.concatenate([np.full((len(output), 1), none, np.int32), output[:, :-1]], axis=1)
    return Batch(source, source != none, shifted, output, output != none, np.arange(len(output), dtype=np.int32))


def word_scores(run: Translator, sentences: Sequence[str], targets: Sequence[list[int]]) -> list[np.ndarray]:
    """The log-probability of each token of given translations."""
    forced = batch(run, sentences, targets)
    scores = np.asarray(forced_decoding.token_log_probabilities((run.model,), (run.params,), forced))
    return [row[: len(ids)] for row, ids in zip(scores, targets, strict=True)]

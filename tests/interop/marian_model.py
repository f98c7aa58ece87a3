"""The model that Marian trained (20,000 pairs of the embedded corpus, 1,800 updates), and what Marian says of it.

Marian 1.12.42 wrote the texts, with `--max-length 300`: `greedy` with `--beam-size 1 --n-best --word-scores`, `beam6`
with `--beam-size 6 --normalize 0.6 --n-best --word-scores`, `alignment` with `--alignment soft` as well.
"""

import lzma
from pathlib import Path
from typing import NamedTuple

TINY = Path(__file__).parents[1] / "fixtures" / "marian-tiny"
LINES = (TINY / "input.txt").read_text("utf-8").split("\n")[:205]  # 200 sentences, and 5 that are hard to read


class Best(NamedTuple):
    """A hypothesis of Marian."""

    text: str
    word_scores: list[float]
    score: float


def marian_says(name: str) -> list[list[Best]]:
    """Marian's hypotheses of each line, best first."""
    found: list[list[Best]] = [[] for _ in LINES]
    for line in lzma.decompress((TINY / f"{name}.txt.xz").read_bytes()).decode().splitlines():
        number, text, scores, _, score = line.split(" ||| ")
        words = [float(word) for word in scores.removeprefix("WordScores= ").split()]
        found[int(number)].append(Best(text, words, float(score)))
    return found

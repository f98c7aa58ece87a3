"""What every program that decodes is given: the model, its weights, the sentences, the search."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from transformer.config import ModelConfig

BEAMS = (1, 4)  # beam sizes that are measured; 1 is greedy search

# What MarianMTModel and CTranslate2's Marian models have, and no option changes.
MARIAN = {
    "norm": "layer",
    "norm_position": "post",
    "norm_epsilon": 1e-5,
    "positions": "halved",
    "attention_bias": True,
    "shared_embeddings": "all",
    "scale_embeddings": True,
    "final_logits_bias": True,
}


@dataclass(frozen=True)
class Job:
    """What a program is asked to do."""

    run: str
    """The run directory, for the program that reads it."""
    weights: str
    """The .npz file of the parameters under their paths."""
    sentences: str
    """The JSON file of the source sentences as lists of token ids, the end id last."""
    model: ModelConfig
    pad_id: int
    start_id: int
    end_id: int
    length_penalty: float
    """Scores are log-probabilities divided by length ** length_penalty."""
    extra_length: int
    """A translation may have this many tokens more than the longest source."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        given = json.loads(text)
        return cls(**given | {"model": ModelConfig(**given["model"])})

    def read_weights(self) -> dict[str, np.ndarray]:
        with np.load(self.weights) as file:
            return dict(file)

    def read_sentences(self) -> list[list[int]]:
        return json.loads(Path(self.sentences).read_text(encoding="utf-8"))

    @property
    def max_length(self) -> int:
        """Of a translation, in tokens."""
        return min(max(map(len, self.read_sentences())) + self.extra_length, self.model.max_positions)


class Program(Protocol):
    """One way to translate. The module of a program has `start(job, variant)`, which builds it."""

    note: str
    """In which type it computes, and what else was chosen."""
    packages: tuple[str, ...]
    """Whose versions belong to the result."""
    batch_sizes: tuple[int, ...]
    """In sentences; the fastest is taken. None where the program's own default is what is measured."""

    def translate(self, sentences: list[list[int]], beam_size: int, batch_size: int) -> list[list[int]]:
        """The best translation of each sentence as token ids, without the end id."""
        ...

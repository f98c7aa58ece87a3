"""The task of the decoding programs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from transformer.config import ModelConfig

BEAMS = (1, 4)  # the measured beam sizes, where 1 is greedy search

# Settings of MarianMTModel and of CTranslate2's Marian models that no option changes.
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
    """The task of a program, read from a JSON file."""

    run: str
    """Path of the run directory, which only our program reads."""
    weights: str
    """Path of the .npz file with the parameters, named by their paths in the tree."""
    ctranslate2: str
    """Path of the model in the format of CTranslate2, which is written only if that is measured."""
    sentences: str
    """Path of the JSON file with the source sentences as lists of token ids, including the end id."""
    model: ModelConfig
    pad_id: int
    start_id: int
    end_id: int
    length_penalty: float
    """Scores are log-probabilities divided by length ** length_penalty."""
    extra_length: int
    """Number of tokens by which a translation may be longer than the longest source."""
    device: str = "cpu"
    """`cpu` or `gpu`."""
    forced_length: int | None = None
    """Length of every translation in tokens, including the end token. None lets a translation end by itself."""

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
        """Maximum length of a translation in tokens."""
        if self.forced_length is not None:
            return self.forced_length
        return min(max(map(len, self.read_sentences())) + self.extra_length, self.model.max_positions)


class Program(Protocol):
    """One way to translate. `start(job, variant)` in the program's module returns it."""

    note: str
    """The compute dtype, and other settings that the program has chosen."""
    packages: tuple[str, ...]
    """Packages whose versions are recorded with the result."""
    batch_sizes: tuple[int, ...]
    """Batch sizes in sentences, of which the fastest is measured. Empty if the program chooses its own."""

    def translate(self, sentences: list[list[int]], beam_size: int, batch_size: int) -> list[list[int]]:
        """The best translation of each sentence as token ids, without the end id."""
        ...

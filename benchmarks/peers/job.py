"""The model sizes and jobs that all training programs share."""

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

from transformer.config import ModelConfig

DROPOUT = 0.1
LABEL_SMOOTHING = 0.1
BETAS, EPSILON, LEARNING_RATE = (0.9, 0.98), 1e-9, 1e-4  # section 5.3, but with a constant rate: schedules cost no time


@dataclass(frozen=True)
class Size:
    """One size of the model, and the size of its batches."""

    d_model: int
    num_heads: int
    d_ff: int
    num_layers: int
    """Number of encoder layers, and also of decoder layers."""
    vocabulary: int = 8_000
    """Rows of the embedding that source, target and output share."""
    tokenizer_size: int = 8_000
    """Vocabulary size of the tokenizer that is trained on the files, at most `vocabulary`."""
    batch_tokens: int = 4_096
    """Upper bound on the padded source tokens of a batch, and separately on its padded target tokens."""

    def config(self) -> ModelConfig:
        """The settings of this project for the model."""
        return ModelConfig(
            vocabulary_size=self.vocabulary,
            d_model=self.d_model,
            num_heads=self.num_heads,
            d_ff=self.d_ff,
            num_encoder_layers=self.num_layers,
            num_decoder_layers=self.num_layers,
            dropout=DROPOUT,
        )


SIZES = {
    "tiny": Size(32, 2, 64, 1, vocabulary=300, tokenizer_size=300, batch_tokens=256),  # for trying the benchmark out
    "S": Size(256, 4, 1024, 3),
    "B": Size(512, 8, 2048, 6),
    "base": Size(512, 8, 2048, 6, vocabulary=37_000, batch_tokens=25_000),  # for GPUs, as in section 5.1
    "big": Size(1024, 16, 4096, 6, vocabulary=37_000, batch_tokens=25_000),
}


@dataclass(frozen=True)
class Job:
    """The task of a program, read from a JSON file."""

    size: Size
    dtype: str
    """`bfloat16` or `float32`."""
    device: str
    """`cpu` or `gpu`."""
    batches: str
    """Path of the .npz file with all batches."""
    num_batches: int
    """Number of batches."""
    warm_up: tuple[int, ...]
    """Index of one batch of each shape."""
    longest: int
    """Number of positions that the longest padded source or target needs."""
    pad_id: int
    start_id: int
    end_id: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        given = json.loads(text)
        return cls(**given | {"size": Size(**given["size"]), "warm_up": tuple(given["warm_up"])})


class Arrays(NamedTuple):
    """One batch of the .npz file, in the order of `transformer.shapes.Batch`."""

    source: Any
    source_mask: Any
    target_input: Any
    target_output: Any
    target_mask: Any
    row: Any


class Program(Protocol):
    """One way to train the model. `start(job)` in the program's module returns it."""

    num_parameters: int
    note: str
    """The compute dtype, and other settings that the program has chosen."""
    packages: tuple[str, ...]
    """Packages whose versions are recorded with the result."""

    def step(self, batch: Arrays) -> None:
        """Makes one update. It may return before the device has finished."""
        ...

    def wait(self) -> float:
        """Waits for the device. Returns the last loss in nats per target token."""
        ...

    def device_bytes(self) -> int | None:
        """Peak memory on the accelerator in bytes, or None on a CPU."""
        ...

"""The model sizes, jobs and FLOPs that all training programs share."""

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

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

    def forward_flops(self, rows: int, S: int, T: int) -> int:
        """FLOPs of the matrix products in a forward pass over a padded batch.

        A multiply-add is two FLOPs.
        """
        d, attention, ffn = self.d_model, 4 * self.d_model**2, 2 * self.d_model * self.d_ff
        encoder = S * (attention + ffn) + 2 * S * S * d
        decoder = T * (attention + attention // 2 + ffn) + S * attention // 2 + 2 * T * T * d + 2 * T * S * d
        return 2 * rows * (self.num_layers * (encoder + decoder) + T * d * self.vocabulary)

    def step_flops(self, rows: int, S: int, T: int) -> int:
        """FLOPs of a forward and a backward pass.

        The gradient of each product is two products of its size.
        """
        return 3 * self.forward_flops(rows, S, T)


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

"""What all programs of the benchmark have in common: the sizes, the job that each is given, and its FLOPs."""

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

DROPOUT = 0.1
LABEL_SMOOTHING = 0.1
BETAS, EPSILON, LEARNING_RATE = (0.9, 0.98), 1e-9, 1e-4  # section 5.3; the rate is constant, schedules cost nothing


@dataclass(frozen=True)
class Size:
    """One size of the model, and how much of it is computed at once."""

    d_model: int
    num_heads: int
    d_ff: int
    num_layers: int
    """Of the encoder, and as many of the decoder."""
    vocabulary: int = 8_000
    """Of the embedding that source, target and output share."""
    pieces: int = 8_000
    """Of the tokenizer that is trained on the files; no more than the vocabulary."""
    batch_tokens: int = 4_096
    """Padded source tokens of a batch, and as many target tokens, at the most."""

    def forward_flops(self, rows: int, S: int, T: int) -> int:
        """Of the matrix products of one forward pass over a padded batch; two FLOPs a multiplication and addition."""
        d, attention, ffn = self.d_model, 4 * self.d_model**2, 2 * self.d_model * self.d_ff
        encoder = S * (attention + ffn) + 2 * S * S * d
        decoder = T * (attention + attention // 2 + ffn) + S * attention // 2 + 2 * T * T * d + 2 * T * S * d
        return 2 * rows * (self.num_layers * (encoder + decoder) + T * d * self.vocabulary)

    def step_flops(self, rows: int, S: int, T: int) -> int:
        """Forward and backward: the gradient of each product is two products of its size."""
        return 3 * self.forward_flops(rows, S, T)


SIZES = {
    "tiny": Size(32, 2, 64, 1, vocabulary=300, pieces=300, batch_tokens=256),  # to try the benchmark itself
    "S": Size(256, 4, 1024, 3),
    "B": Size(512, 8, 2048, 6),
    "base": Size(512, 8, 2048, 6, vocabulary=37_000, batch_tokens=25_000),  # for a GPU: section 5.1
    "big": Size(1024, 16, 4096, 6, vocabulary=37_000, batch_tokens=25_000),
}


@dataclass(frozen=True)
class Job:
    """What a program is asked to do."""

    size: Size
    dtype: str
    """`bfloat16` or `float32`."""
    device: str
    """`cpu` or `gpu`."""
    batches: str
    """The .npz file of all batches."""
    num_batches: int
    """How many there are."""
    warm_up: tuple[int, ...]
    """One batch of each shape."""
    longest: int
    """Positions of the longest source or target."""
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
    """One batch as the .npz file holds it, in the order of `transformer.shapes.Batch`."""

    source: Any
    source_mask: Any
    target_input: Any
    target_output: Any
    target_mask: Any
    row: Any


class Program(Protocol):
    """One way to train the model. The module of a program has `start(job)`, which builds it."""

    num_parameters: int
    note: str
    """In which type it computes, and what else was chosen."""
    packages: tuple[str, ...]
    """Whose versions belong to the result."""

    def step(self, batch: Arrays) -> None:
        """Forward, backward and update; need not wait for the device."""
        ...

    def wait(self) -> float:
        """Waits for the device and returns the last step's loss in nats a target token."""
        ...

    def device_bytes(self) -> int | None:
        """Peak memory on the accelerator; None on a CPU."""
        ...

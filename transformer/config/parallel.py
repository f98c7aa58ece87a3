"""Settings of the devices that train a model."""

from dataclasses import dataclass
from typing import Annotated, Literal

from transformer.config.bounds import Bound, at_most, check
from transformer.errors import require

LEFT = Bound("must be at least 1, or -1 for all devices that are left", lambda v: v >= 1 or v == -1)
Size = Annotated[int, LEFT, at_most(2**20)]


@dataclass(frozen=True)
class ParallelConfig:
    """How training is split over devices. It changes a step by rounding only."""

    strategy: Literal["auto", "pmap", "mesh"] = "auto"
    """`pmap` gives each device the entire model and a part of each batch.
    `mesh` arranges the devices in a mesh with the axes `data`, `fsdp` and
    `tensor`. `auto` is `pmap` in one process if `fsdp` and `tensor` are
    1, else `mesh`."""
    data: Size = -1
    """Number of groups of devices, each with its part of a batch. -1 takes
    all devices that the other two axes leave."""
    fsdp: Size = 1
    """Number of devices that store parameters, optimizer state and gradients
    in shards, each with its part of a batch. Parameters are gathered
    where they are used."""
    tensor: Size = 1
    """Number of devices that share the heads, d_ff and the vocabulary, for
    the same part of a batch."""

    def __post_init__(self) -> None:
        check(self, "parallel")
        require(
            [self.data, self.fsdp, self.tensor].count(-1) <= 1,
            "At most one of parallel.data, parallel.fsdp and parallel.tensor may be -1, and parallel.data is -1 unless "
            "it is given. Give the sizes of the others, such as --parallel.data 1.",
        )
        require(
            self.strategy != "pmap" or self.fsdp == self.tensor == 1,
            "parallel.strategy=pmap gives each device the entire model, but parallel.fsdp is "
            f"{self.fsdp} and parallel.tensor is {self.tensor}. Leave out --parallel.strategy, or both of these.",
        )

"""What is to be measured."""

from dataclasses import dataclass
from typing import Literal

from transformer.errors import require


@dataclass(frozen=True)
class Settings:
    """Over which sizes layers are measured, and how."""

    lengths: tuple[int, ...] = (128, 256, 512, 1024)
    """Sequence lengths n, in positions."""
    widths: tuple[int, ...] = (128, 256, 512)
    """Widths d, in features of a position."""
    kernel: int = 3
    """Kernel width k of the convolution, in positions."""
    neighbourhood: int = 33
    """How many positions r restricted self-attention looks at: as many to either side, and the position itself."""
    batch: int = 1
    """Sequences that are computed at once."""
    repeats: int = 5
    """Runs of each program that are timed, at least: short ones are run more often. Their median counts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations. On a CPU only our attention has fast products in bfloat16; in float32 all layers have."""

    def __post_init__(self) -> None:
        for name in ("lengths", "widths"):
            given = getattr(self, name)
            require(len(given) > 0, f"{name} must not be empty.")
            require(min(given) >= 1, f"{name} must be at least 1, but one of them is {min(given)}.")
        require(self.kernel >= 2, f"kernel must be at least 2, or positions do not meet, but is {self.kernel}.")
        require(
            self.neighbourhood >= 3 and self.neighbourhood % 2 == 1,
            "neighbourhood must be odd and at least 3: a position, and as many to either side. It is "
            f"{self.neighbourhood}.",
        )
        for name in ("batch", "repeats"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, but is {getattr(self, name)}.")

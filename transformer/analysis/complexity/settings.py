"""The sizes at which layers are measured, and how."""

from dataclasses import dataclass
from typing import Literal

from transformer.errors import require


@dataclass(frozen=True)
class Settings:
    """Sizes of the layers, and how they are measured."""

    lengths: tuple[int, ...] = (128, 256, 512, 1024)
    """Sequence lengths n, in positions."""
    widths: tuple[int, ...] = (128, 256, 512)
    """Widths d, in features per position."""
    kernel: int = 3
    """Kernel width k of the convolution, in positions."""
    neighbourhood: int = 33
    """Positions r that restricted self-attention attends to: the query's own and (r - 1) / 2 on either side. Odd."""
    batch: int = 1
    """Batch size, in sequences."""
    repeats: int = 5
    """Minimum number of timed runs per program, of which the median is reported. Short programs run more often."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of activations. On a CPU only this package's attention has fast bfloat16 products; compare in float32."""

    def __post_init__(self) -> None:
        for name in ("lengths", "widths"):
            given = getattr(self, name)
            require(len(given) > 0, f"--{name} needs at least one value.")
            require(min(given) >= 1, f"--{name} must be at least 1, but one of its values is {min(given)}.")
        require(self.kernel >= 2, f"--kernel must be at least 2, but is {self.kernel}.")
        require(
            self.neighbourhood >= 3 and self.neighbourhood % 2 == 1,
            f"--neighbourhood must be odd and at least 3, but is {self.neighbourhood}.",
        )
        for name in ("batch", "repeats"):
            require(getattr(self, name) >= 1, f"--{name} must be at least 1, but is {getattr(self, name)}.")

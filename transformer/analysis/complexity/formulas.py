"""Complexity, sequential operations and maximum path length of a layer (Table 1)."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """The symbols of Table 1."""

    n: int
    """Sequence length, in positions."""
    d: int
    """Width, in features per position."""
    k: int
    """Kernel width of the convolution, in positions."""
    r: int
    """Positions that restricted self-attention attends to, half of them on either side of the query."""


@dataclass(frozen=True)
class Order:
    """A formula of Table 1, without the constant factor that O() hides."""

    formula: str
    count: Callable[[Size], int]


@dataclass(frozen=True)
class Row:
    """A row of Table 1."""

    layer: str
    operations: Order
    sequential: Order
    path: Order


def ceil_log(base: int, number: int) -> int:
    """The smallest integer exponent with base^exponent >= number."""
    exponent = 0  # `math.log` would miss exact powers
    while base**exponent < number:
        exponent += 1
    return exponent


_ONE = Order("1", lambda size: 1)
_EACH = Order("n", lambda size: size.n)
_CONVOLUTION = Order("k n d^2", lambda size: size.k * size.n * size.d**2)

TABLE = (
    Row("self-attention", Order("n^2 d", lambda size: size.n**2 * size.d), _ONE, _ONE),
    Row("recurrent", Order("n d^2", lambda size: size.n * size.d**2), _EACH, _EACH),
    # Dilated convolutions, each with k times the dilation of the one before. The next row gives the path
    # length with contiguous kernels (section 4).
    Row("convolutional", _CONVOLUTION, _ONE, Order("log_k n", lambda size: ceil_log(size.k, size.n))),
    Row("convolutional, contiguous", _CONVOLUTION, _ONE, Order("n/k", lambda size: -(-size.n // size.k))),
    Row(
        "self-attention, restricted",
        Order("r n d", lambda size: size.r * size.n * size.d),
        _ONE,
        Order("n/r", lambda size: -(-size.n // size.r)),
    ),
)

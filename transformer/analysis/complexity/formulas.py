"""Table 1 of the paper: operations of a layer, steps that must wait for one another, longest path between positions."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """The letters of Table 1."""

    n: int
    """Positions in the sequence."""
    d: int
    """Features of a position."""
    k: int
    """Positions under the kernel of a convolution."""
    r: int
    """Positions that restricted self-attention looks at: as many to either side, and the position itself."""


@dataclass(frozen=True)
class Order:
    """A formula of Table 1, without the factor that the O hides."""

    formula: str
    count: Callable[[Size], int]


@dataclass(frozen=True)
class Row:
    """A line of Table 1."""

    layer: str
    operations: Order
    sequential: Order
    path: Order


def ceil_log(base: int, number: int) -> int:
    """The smallest whole exponent with base^exponent >= number; `math.log` would miss exact powers."""
    exponent = 0
    while base**exponent < number:
        exponent += 1
    return exponent


_ONE = Order("1", lambda size: 1)
_EACH = Order("n", lambda size: size.n)
_CONVOLUTION = Order("k n d^2", lambda size: size.k * size.n * size.d**2)

TABLE = (
    Row("self-attention", Order("n^2 d", lambda size: size.n**2 * size.d), _ONE, _ONE),
    Row("recurrent", Order("n d^2", lambda size: size.n * size.d**2), _EACH, _EACH),
    # A stack of convolutions of which each leaves k times as large gaps as the one before; with contiguous kernels the
    # path is the next row's (section 4).
    Row("convolutional", _CONVOLUTION, _ONE, Order("log_k n", lambda size: ceil_log(size.k, size.n))),
    Row("convolutional, contiguous", _CONVOLUTION, _ONE, Order("n/k", lambda size: -(-size.n // size.k))),
    Row(
        "self-attention, restricted",
        Order("r n d", lambda size: size.r * size.n * size.d),
        _ONE,
        Order("n/r", lambda size: -(-size.n // size.r)),
    ),
)

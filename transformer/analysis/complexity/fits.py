"""What follows from the measurements: exponents of n and d, and the n from which on attention costs more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from transformer.analysis.complexity.measure import Measurement

Quantity = Literal["flops", "bytes", "seconds"]


@dataclass(frozen=True)
class Fit:
    """cost = constant n^alpha d^beta."""

    n: float
    """alpha."""
    d: float
    """beta."""
    n_error: float
    """Standard error of alpha."""
    d_error: float
    """Standard error of beta."""


def fit(measured: Sequence[Measurement], quantity: Quantity) -> Fit:
    """Exponents by least squares in log cost = c + alpha log n + beta log d, at the three largest n and d.

    Args:
        measured: one layer in one direction, at two or more n and d.
        quantity: which cost.
    """
    lengths, widths = (sorted({getattr(one, axis) for one in measured})[-3:] for axis in "nd")
    large = [one for one in measured if one.n in lengths and one.d in widths]
    design = np.array([[1, np.log(one.n), np.log(one.d)] for one in large])
    cost = np.log([getattr(one, quantity) for one in large])
    found = np.linalg.lstsq(design, cost)[0]
    residual = cost - design @ found
    variance = residual @ residual / (len(large) - 3)
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    return Fit(*(float(value) for value in (*found[1:], *errors[1:])))


@dataclass(frozen=True)
class Crossover:
    """The n from which on attention costs more than another layer."""

    relation: Literal["<", "=", ">"]
    """Whether n is the crossover, or the crossover is below or above it, outside of what was measured."""
    n: float
    """Positions."""


def crossover(attention: Mapping[int, float], other: Mapping[int, float]) -> Crossover:
    """Where attention begins to cost more for good, between two measured n by a straight line in log n and log cost.

    Args:
        attention: its cost at each n.
        other: that of the other layer, at the same n.
    """
    lengths = sorted(attention)
    excess = np.log([attention[n] / other[n] for n in lengths])
    cheaper = np.flatnonzero(excess <= 0)
    if not len(cheaper):
        return Crossover("<", float(lengths[0]))
    last = int(cheaper[-1])
    if last == len(lengths) - 1:
        return Crossover(">", float(lengths[-1]))
    share = excess[last] / (excess[last] - excess[last + 1])
    return Crossover("=", float(lengths[last] * (lengths[last + 1] / lengths[last]) ** share))

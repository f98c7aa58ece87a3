"""Operations of a layer as XLA counts them, and its time on this device."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any, Literal

import jax
import jax.numpy as jnp

from transformer.analysis.complexity.formulas import Size
from transformer.analysis.complexity.layers import Layer, Step, make_layers
from transformer.analysis.complexity.settings import Settings
from transformer.errors import InputError
from transformer.shapes import Params

Direction = Literal["forward", "forward and backward"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "forward and backward")
LEAST_SECONDS = 0.05
"""Minimum total time of a program's runs, so that an interruption does not move the median of short runs."""


@dataclass(frozen=True)
class Measurement:
    """One layer at one size in one direction."""

    layer: str
    direction: Direction
    n: int
    """Sequence length, in positions."""
    d: int
    """Width, in features per position."""
    flops: float
    """Floating point operations as XLA counts them. A multiplication and an addition count as two."""
    seconds: float
    """Median time of a run."""
    fastest: float
    """Time of the fastest run, in seconds."""
    slowest: float
    """Time of the slowest run, in seconds."""


def device() -> str:
    """The kind of device that JAX computes on, and the version of JAX."""
    return f"{jax.devices()[0].device_kind}, jax {jax.__version__}"


def measure(settings: Settings, directions: Sequence[Direction] = DIRECTIONS) -> Iterator[Measurement]:
    """Measures every layer at every n and d, and yields the results one by one.

    Args:
        settings: the sizes to measure, and how.
        directions: forward, forward and backward, or both.

    Raises:
        InputError: XLA counts no operations on this device.
    """
    steps: dict[tuple[str, Direction, int], float] = {}  # of one step of a recurrent layer, the same at every n
    for n, d in product(sorted({*settings.lengths}), sorted({*settings.widths})):
        size = Size(n, d, settings.kernel, settings.neighbourhood)
        for name, layer in make_layers(size, settings.batch, settings.dtype).items():
            for direction in directions:
                program = compile_layer(layer, direction)
                if layer.step is None:
                    flops = program.flops()
                else:
                    kind = (name, direction, d)
                    if kind not in steps:
                        steps[kind] = compile_step(layer, layer.step, direction).flops()
                    flops = n * steps[kind]
                times = run_times(program, settings.repeats)
                yield Measurement(name, direction, n, d, flops, median(times), min(times), max(times))


@dataclass(frozen=True)
class Program:
    """A compiled function and its arguments."""

    compiled: Any
    arguments: tuple[Any, ...]

    def flops(self) -> float:
        """The operations that XLA counts, with the body of a loop counted once.

        Raises:
            InputError: XLA counts no operations on this device.
        """
        found = self.compiled.cost_analysis()
        if not found or "flops" not in found:
            raise InputError(
                f"XLA does not count operations on this device ({jax.devices()[0].device_kind}). Set JAX_PLATFORMS=cpu "
                "to measure on the CPU."
            )
        return found["flops"]


def compile_layer(layer: Layer, direction: Direction) -> Program:
    """Compiles a layer in one direction.

    Backward computes the gradients of its parameters and its input.
    """
    if direction == "forward":
        return _compile(layer.apply, layer.params, layer.x)
    return _compile(_with_gradients(layer.apply), _ones(layer.apply, layer.params, layer.x), layer.params, layer.x)


def compile_step(layer: Layer, step: Step, direction: Direction) -> Program:
    """Compiles one position of a recurrent layer, of which the layer's loop runs n.

    Args:
        layer: the recurrent layer.
        step: its step at one position.
        direction: backward also accumulates the gradients of the parameters over positions, as the loop does.
    """
    arguments = (layer.params, step.state, layer.x[:, 0])
    if direction == "forward":
        return _compile(step.apply, *arguments)

    def accumulate(total: Params, gradient: Any, *arguments: Any) -> Any:
        y, (of_params, *others) = _with_gradients(step.apply)(gradient, *arguments)
        return y, jax.tree.map(jnp.add, total, of_params), others

    return _compile(accumulate, layer.params, _ones(step.apply, *arguments), *arguments)


def _compile(function: Callable[..., Any], *arguments: Any) -> Program:
    return Program(jax.jit(function).lower(*arguments).compile(), arguments)


def _with_gradients(function: Callable[..., Any]) -> Callable[..., tuple[Any, tuple[Any, ...]]]:
    """(gradient of the result, *arguments) -> (result, gradients of the arguments)."""

    def both(gradient: Any, *arguments: Any) -> tuple[Any, tuple[Any, ...]]:
        y, pull = jax.vjp(function, *arguments)
        return y, pull(gradient)

    return both


def _ones(function: Callable[..., Any], *arguments: Any) -> Any:
    """A gradient of ones for the result.

    It is passed as an argument, because XLA would simplify products with a constant.
    """
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), jax.eval_shape(function, *arguments))


def run_times(program: Program, repeats: int) -> list[float]:
    """The time of each run of a program in seconds, after one run that is not timed.

    Args:
        program: the program to run.
        repeats: minimum number of runs. A short program runs more often, until `LEAST_SECONDS` have passed.
    """
    jax.block_until_ready(program.compiled(*program.arguments))
    times: list[float] = []
    while len(times) < repeats or sum(times) < LEAST_SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(program.compiled(*program.arguments))
        times.append(time.perf_counter() - start)
    return times

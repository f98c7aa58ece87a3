"""What a layer costs here: its operations as XLA counts them, and the time that this device takes."""

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
"""For how long a program is run at least: the median of many short runs is not moved by an interruption."""


@dataclass(frozen=True)
class Measurement:
    """One layer at one size in one direction."""

    layer: str
    direction: Direction
    n: int
    """Positions."""
    d: int
    """Features of a position."""
    flops: float
    """Floating point operations as XLA counts them; a product and a sum are two."""
    seconds: float
    """Median of the runs."""
    fastest: float
    """Of the runs, in seconds."""
    slowest: float
    """Of the runs, in seconds."""


def device() -> str:
    """What the measurements were taken on: the kind of device, and the version of jax."""
    return f"{jax.devices()[0].device_kind}, jax {jax.__version__}"


def measure(settings: Settings, directions: Sequence[Direction] = DIRECTIONS) -> Iterator[Measurement]:
    """Every layer at every n and d: each as soon as it is measured.

    Args:
        settings: what is to be measured, and how.
        directions: forward, with its gradients, or both.

    Raises:
        InputError: XLA counts nothing on this device.
    """
    steps: dict[tuple[str, Direction, int], float] = {}  # of recurrent layers: the same at every n
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
        """The operations that XLA counts: the body of a loop once, however often it runs.

        Raises:
            InputError: XLA counts nothing on this device.
        """
        found = self.compiled.cost_analysis()
        if not found or "flops" not in found:
            raise InputError(f"XLA counts no operations on this device ({jax.devices()[0].device_kind}); try a CPU.")
        return found["flops"]


def compile_layer(layer: Layer, direction: Direction) -> Program:
    """A layer's program in one direction; backward means the gradients of its parameters and of its input."""
    if direction == "forward":
        return _compile(layer.apply, layer.params, layer.x)
    return _compile(_with_gradients(layer.apply), _ones(layer.apply, layer.params, layer.x), layer.params, layer.x)


def compile_step(layer: Layer, step: Step, direction: Direction) -> Program:
    """What the loop of a recurrent layer does at one position, alone: n times its operations are the layer's.

    Args:
        layer: the recurrent layer.
        step: its step.
        direction: backward also adds the gradients of the parameters to those of later positions.
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
    """(gradient of the result, *arguments) -> the result and the gradients of the arguments."""

    def both(gradient: Any, *arguments: Any) -> tuple[Any, tuple[Any, ...]]:
        y, pull = jax.vjp(function, *arguments)
        return y, pull(gradient)

    return both


def _ones(function: Callable[..., Any], *arguments: Any) -> Any:
    """A gradient of the result; as an argument, because XLA would simplify products with a constant."""
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), jax.eval_shape(function, *arguments))


def run_times(program: Program, repeats: int) -> list[float]:
    """Seconds of each of some runs, after one that is not timed.

    Args:
        program: what is run.
        repeats: how many runs at least; a short program is run again until `LEAST_SECONDS` have passed.
    """
    jax.block_until_ready(program.compiled(*program.arguments))
    times: list[float] = []
    while len(times) < repeats or sum(times) < LEAST_SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(program.compiled(*program.arguments))
        times.append(time.perf_counter() - start)
    return times

"""The plan of a training run: memory, FLOPs, time and collectives of its step, compiled but not run."""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.config import Config
from transformer.parameters import count
from transformer.planning.program import Compiled, arrangement, compile_step, state_shapes
from transformer.planning.targets import Target, device_memory
from transformer.training.utilization import peak_flops, step_flops

PREALLOCATED = 0.75
"""Share of a GPU's memory that JAX takes by default (`XLA_CLIENT_MEM_FRACTION`)."""
DEPARTURE = 0.1
"""Share by which the tokens of an update may differ from the recipe's without a warning."""
GIBIBYTE = 2**30


class Workload(NamedTuple):
    """The batches of a run, over all devices and micro-batches."""

    S: int
    """Source tokens of a row, with padding."""
    T: int
    """Target tokens of a row, with padding."""
    rows: int
    """Rows of a batch."""
    padding: float | None = None
    """Share of all positions that hold no token. None without data."""
    per_epoch: int | None = None
    """Batches per epoch. None without data."""

    @property
    def positions(self) -> int:
        """Source and target positions of a batch."""
        return (self.S + self.T) * self.rows


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a training run. Bytes are those of one device."""

    target: str
    devices: int
    device_kind: str
    strategy: str
    """How training is split over the devices: `pmap`, or a mesh with its sizes."""
    shards: int
    """Number of parts of a batch. Devices along the axis `tensor` share a part."""
    dtype: str
    parameters: int
    """Number of parameters."""
    workload: Workload
    accumulation_steps: int
    parameter_bytes: int
    optimizer_bytes: int
    temporary_bytes: int
    """Activations, gradients, and whatever a kernel needs."""
    program_bytes: int
    """Parameters, optimizer state, batch and temporary memory."""
    usable_bytes: int | None
    """Memory that a program may use; None if it is unknown."""
    largest_batch_tokens: int | None
    """Largest `training.batch_tokens` that fits, extrapolated from two batch sizes. None if the memory is unknown."""
    flops_per_step: int
    """FLOPs of the model's products, forward and backward (`step_flops`)."""
    flops_per_token: float
    """The same per source and target token, without padding if the data are known."""
    peak_flops: float | None
    """Speed of products in FLOP/s, of all devices together: their peak, or as measured on this machine if that is not
    known. None if neither is."""
    estimated_seconds: float | None
    """Estimated time of a step; None if there is no estimator for the device."""
    never_run: list[str]
    steps: int
    epochs: float | None
    collectives: dict[str, int]
    warnings: list[str]

    @property
    def fits(self) -> bool | None:
        """Whether the step fits into memory; None if the memory is unknown."""
        return None if self.usable_bytes is None else self.program_bytes <= self.usable_bytes

    def to_json(self) -> str:
        """The plan as one JSON object. Its keys are the names of this class's attributes."""
        values = dataclasses.asdict(self) | {"workload": self.workload._asdict(), "fits": self.fits}
        return json.dumps(values, indent=2)

    def to_text(self) -> str:
        """The plan as aligned lines, each with its unit, and its warnings."""
        work = self.workload
        parts = self.shards * self.accumulation_steps
        per_update = work.positions * (1 - (work.padding or 0.0))
        known = "rows assumed to be full" if work.padding is None else f"{work.padding:.1%} padding"
        rows = [
            ("target", f"{self.devices} x {self.device_kind}, {self.dtype}"),
            ("strategy", self.strategy if self.devices > 1 else None),
            ("parameters", f"{self.parameters:,}"),
            ("batch", f"{work.rows:,} rows of {work.S} source and {work.T} target tokens, {known}"),
            ("on each device", f"{work.rows // parts:,} rows at a time, {self.accumulation_steps} times an update"),
            ("tokens per update", f"{per_update:,.0f}, source and target"),
            ("parameters, optimizer", f"{_size(self.parameter_bytes)}, {_size(self.optimizer_bytes)}"),
            ("activations and other", _size(self.temporary_bytes)),
            ("memory of the step", f"{_size(self.program_bytes)} {self._fit()}"),
            ("largest batch", self.largest_batch_tokens and f"--training.batch-tokens {self.largest_batch_tokens:,}"),
            (
                "FLOPs",
                f"{self.flops_per_step / 1e12:,.3g} TFLOP a step, {self.flops_per_token / 1e6:,.0f} MFLOP a token",
            ),
            ("time of a step", self._time()),
            ("time of the run", self._run()),
            ("collectives of a step", ", ".join(f"{n} {name}" for name, n in self.collectives.items()) or "none"),
        ]
        lines = [f"{name:24}{value}" for name, value in rows if value is not None]
        if self.never_run:
            lines.append(f"The estimate depends on kernels that have not run on a card: {', '.join(self.never_run)}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def _fit(self) -> str:
        if self.usable_bytes is None:
            return "(the memory of the device is unknown)"
        return f"of {_size(self.usable_bytes)} usable{'' if self.fits else ': it does not fit'}"

    @property
    def _seconds(self) -> float | None:
        if self.estimated_seconds is not None or self.peak_flops is None:
            return self.estimated_seconds
        return self.flops_per_step / self.peak_flops

    def _time(self) -> str:
        if self.estimated_seconds is not None:
            return f"{_duration(self.estimated_seconds)} (estimated from the compiled kernels)"
        if self._seconds is not None and self.peak_flops is not None:
            return f"at least {_duration(self._seconds)} (all products at {self.peak_flops / 1e12:,.3g} TFLOP/s)"
        return "unknown, because the peak of this device is"

    def _run(self) -> str | None:
        if self._seconds is None:
            return None
        least = "at least " if self.estimated_seconds is None else ""
        epochs = "" if self.epochs is None else f" ({self.epochs:,.1f} epochs)"
        return f"{least}{_duration(self.steps * self._seconds)} for {self.steps:,} steps{epochs}, without validation"


def make_plan(config: Config, dtype: str, target: Target, devices: Sequence[Any], work: Workload, tokens: int) -> Plan:
    """Compiles the step for two batch sizes, and reports what they say.

    Args:
        config: The experiment.
        dtype: The compute dtype.
        target: The hardware.
        devices: Its devices, as `targets.devices_of` returns them.
        work: The batches.
        tokens: `training.batch_tokens` of the recipe, with which the tokens of an update are compared.

    Raises: InputError if the devices or the model do not fit the mesh of the config, or if XLA cannot compile the step
        for another reason than too little memory.
    """
    training, number = config.training, len(devices)
    arranged = arrangement(config, devices)
    compiled = compile_step(config, dtype, target, devices, work.rows // arranged.num_shards, work.S, work.T)
    sharing = number if devices[0].platform == "cpu" else 1  # simulated devices share the memory and cores of one CPU
    usable = device_memory(target, devices[0])
    if usable is not None and devices[0].platform in ("gpu", "cuda"):
        usable = int(PREALLOCATED * usable)
    usable = usable and usable // sharing
    state = state_shapes(config, devices)
    flops = step_flops(config.model, work.S, work.T, work.rows)
    real = work.positions * (1 - (work.padding or 0.0))
    peak = peak_flops([device.device_kind for device in devices], dtype)
    if peak is None and target.backend == "local":
        peak = number // sharing * product_flops(dtype)
    return Plan(
        target=target.name,
        devices=number,
        device_kind=devices[0].device_kind,
        strategy=str(arranged),
        shards=arranged.num_shards,
        dtype=dtype,
        parameters=count(state.params),
        workload=work,
        accumulation_steps=training.accumulation_steps,
        parameter_bytes=bytes_per_device(state.params),
        optimizer_bytes=bytes_per_device(state.optimizer_state),
        temporary_bytes=compiled.temporary,
        program_bytes=compiled.bytes,
        usable_bytes=usable,
        largest_batch_tokens=usable and _largest(config, dtype, target, devices, work, compiled, usable),
        flops_per_step=flops,
        flops_per_token=flops / real,
        peak_flops=peak,
        estimated_seconds=compiled.seconds,
        never_run=compiled.never_run,
        steps=training.steps,
        epochs=None if work.per_epoch is None else training.steps / work.per_epoch,
        collectives=compiled.collectives,
        warnings=_warnings(work, tokens),
    )


def product_flops(dtype: str, size: int = 1024, repetitions: int = 5) -> float:
    """The measured speed of a product of two square matrices on one device of this machine, in FLOP/s."""
    a = jnp.ones((size, size), jnp.dtype(dtype))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        product(a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def bytes_per_device(tree: Any) -> int:
    """The bytes that one device has of a tree of shapes, dtypes and shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _largest(
    config: Config, dtype: str, target: Target, devices: Sequence[Any], work: Workload, first: Compiled, usable: int
) -> int:
    """The largest `training.batch_tokens` that fits, if memory grows linearly with the rows."""
    shards = work.rows // first.rows
    multiple = shards * config.training.accumulation_steps
    other = work._replace(rows=max(multiple, work.rows // 2 // multiple * multiple))
    if other.rows == work.rows:
        other = work._replace(rows=2 * work.rows)
    second = compile_step(config, dtype, target, devices, other.rows // shards, work.S, work.T)
    per_row = (first.bytes - second.bytes) / (first.rows - second.rows)
    more = (usable - first.bytes) / per_row if per_row > 0 else 0.0
    rows = max(0, math.floor(first.rows + more)) * shards
    return rows // multiple * multiple * max(work.S, work.T)


def _warnings(work: Workload, tokens: int) -> list[str]:
    """Sentences that say where the run departs from its recipe."""
    found = []
    for side, length in (("source", work.S), ("target", work.T)):
        real = work.rows * length * (1 - (work.padding or 0.0))
        if side == ("source" if work.S >= work.T else "target") and abs(real / tokens - 1) > DEPARTURE:
            found.append(
                f"An update has about {real:,.0f} {side} tokens without padding, but the recipe has {tokens:,}. The "
                "learning rate and the number of steps were chosen for the recipe's."
            )
    return found


def _size(count: int) -> str:
    return f"{count / GIBIBYTE:,.2f} GiB" if count >= GIBIBYTE / 10 else f"{count / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1e3 * seconds:,.1f} ms"
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"

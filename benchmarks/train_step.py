"""Measurements of the training step for `micro.py`."""

from peers.ours import model_of, random_batch  # isort: skip  it sets the allocator before jax is imported

import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from peers.job import LABEL_SMOOTHING, SIZES, Size

from transformer.config import OptimizerConfig
from transformer.errors import InputError
from transformer.ops.implementation import select
from transformer.runtime import resolve_dtype
from transformer.training import parallel
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state, train_step

STEPS = 4  # number of profiled steps
CONTAINERS = ("while", "call", "conditional")  # operations that only run others, whose time is counted there
VOCABULARY, WIDTH, TOKENS = 37_000, 512, (4_096, 8_192, 16_384)  # sizes of the loss whose memory is measured


def make_step(size: Size) -> tuple[Any, Any]:
    """The training step of one device, and a function that makes its first state."""
    model = model_of(size, resolve_dtype("auto")[0])
    optimizer = make_optimizer(OptimizerConfig(), size.d_model, steps=100_000)
    step = partial(train_step, model=model, optimizer=optimizer, label_smoothing=LABEL_SMOOTHING, seed=0)
    return step, partial(create_state, model, optimizer, seed=0)


def operations(size: Literal["tiny", "S", "B"] = "B", number: int = 10) -> None:
    """List the most expensive operations of the compiled training step.

    The step is compiled for a full batch of random tokens and profiled. Operations of the same kind at the same point
    of every layer share a row, and "gradient" marks the backward pass. A fusion has the name of its last operation.

    On a CPU, XLA runs independent operations concurrently. Time in which several run is divided among them, so that all
    rows add up to the time in which anything ran. The column "alone" is the share of a row's time in which nothing else
    ran.

    Args:
        size: a model size of `training.py`.
        number: number of rows to show.
    """
    step, first_state = make_step(SIZES[size])
    state = first_state()
    batch = jax.tree.map(lambda x: x[None], random_batch(SIZES[size]))  # one accumulation step
    program = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    kinds = kinds_of_operations(program.as_text() or "")
    for _ in range(2):
        state, _ = program(state, batch)
    jax.block_until_ready(state)
    with tempfile.TemporaryDirectory(prefix="operations-") as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                state, _ = program(state, batch)
            jax.block_until_ready(state)
        (file,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    named = [
        (str(dict(event.stats).get("hlo_op", event.name)), event)  # on a GPU, the event has the name of its kernel
        for plane in profile.planes
        for line in plane.lines
        for event in line.events
    ]
    events = [
        (event.start_ns, event.start_ns + event.duration_ns, kinds[name]) for name, event in named if name in kinds
    ]
    if not events:
        raise InputError("The profile contains no operation of the compiled step. Run this on a CPU or an NVIDIA GPU.")
    spent, alone = divide(events)
    times = Counter(kind for *_, kind in events)
    total = sum(spent.values())
    print(f"{size}, {resolve_dtype('auto')[0]}: operations run for {total / STEPS * 1e-6:,.0f} ms per step")
    print("\n| share | per step | alone | times | operation | result |\n| ---: | ---: | ---: | ---: | --- | --- |")
    for kind, spent_on_kind in sorted(spent.items(), key=lambda item: -item[1])[:number]:
        milliseconds, times_a_step = spent_on_kind / STEPS * 1e-6, times[kind] / STEPS
        share, apart = spent_on_kind / total, alone[kind] / spent_on_kind
        print(f"| {share:.1%} | {milliseconds:,.1f} ms | {apart:.0%} | {times_a_step:.0f} | {kind} |")


def kinds_of_operations(hlo: str) -> dict[str, str]:
    """Describes each instruction by its module path, operation and result type."""
    kinds = {}
    instruction = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\(")
    around = re.compile(r"(jit|jvp|transpose)\(|Transformer\.|while$|body$|closed_call$")
    for line in hlo.splitlines():
        found, path = instruction.match(line), re.search(r'op_name="([^"]*)"', line)
        if found is None or found[3] in CONTAINERS:
            continue
        parts = path[1].split("/") if path else [found[3]]
        origin = "/".join(re.sub(r"_\d+$", "", part) for part in parts if not around.match(part))
        gradient = "gradient, " if path and "transpose(" in path[1] else ""
        if path and "/while/" in path[1]:
            origin = f"loss/{origin}"  # the only loop of a step, which computes the loss in parts of the batch
        kinds[found[1]] = f"{gradient}{origin} | {re.sub(r'{.*?}', '', found[2])}"
    return kinds


def divide(events: Sequence[tuple[float, float, str]]) -> tuple[defaultdict[str, float], defaultdict[str, float]]:
    """Divides time among the operations that ran in it.

    Args:
        events: start, end and kind of each operation. The end may equal the start.

    Returns: The time of each kind, and the part of it in which no other operation ran.
    """
    edges = [(start, False, n) for n, (start, _, _) in enumerate(events)]
    edges += [(end, True, n) for n, (_, end, _) in enumerate(events)]
    spent, alone = defaultdict[str, float](float), defaultdict[str, float](float)
    running: set[int] = set()
    since = 0.0
    for now, ends, n in sorted(edges):
        if now > since:
            for other in running:
                spent[events[other][2]] += (now - since) / len(running)
            if len(running) == 1:
                alone[events[min(running)][2]] += now - since
        since = now
        if ends:
            running.remove(n)
        else:
            running.add(n)
    return spent, alone


def pmap(size: Literal["tiny", "S", "B"] = "S", pairs: int = 30) -> None:
    """Compare the training step under `jax.pmap` and `jax.jit` on one device.

    The two take turns. Prints both median times, and the median of the ratios of consecutive steps. A step has 128
    random pairs of 32 tokens.

    Args:
        size: a model size of `training.py`.
        pairs: number of measured steps of each program.
    """
    step, first_state = make_step(SIZES[size])
    split = parallel.split(random_batch(SIZES[size]), 1)
    programs = {
        "jit": (jax.jit(step, donate_argnums=0), jax.tree.map(lambda x: x[0], split)),
        "pmap": (parallel.map_train_step(partial(step, total=parallel.total)), split),
    }
    states = {name: first_state() for name in programs}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for run in range(pairs + 2):
        for name, (program, batch) in programs.items():
            start = time.perf_counter()
            states[name], metrics = program(states[name], batch)
            jax.block_until_ready((states[name], metrics))
            if run >= 2:  # the first compiles, and the second still allocates memory
                seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"{name:5} {statistics.median(times) * 1e3:7.1f} ms   ({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f})")
    ratios = [b / a for a, b in zip(seconds["jit"], seconds["pmap"], strict=True)]
    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"pmap / jit {statistics.median(ratios):.3f} on one device ({device})")


def loss_memory() -> None:
    """Measure the memory of output layer and loss for batches of several sizes.

    The vocabulary has 37,000 tokens. Our loss only ever holds the logits of a part of the batch. So the decoder's
    output and its gradient should grow with the batch (2 KiB per token here, in bfloat16), but not the logits (148 KB
    per token, in float32). The second row computes all logits at once, with one-hot targets. Each figure is the
    temporary memory that XLA plans for loss and gradient, without arguments and results.
    """
    print(f"| tokens | {' | '.join(f'{tokens:,}' for tokens in TOKENS)} |\n| --- | {'---: | ' * len(TOKENS)}")
    for name, loss in (("in parts", _in_parts), ("at once", _at_once)):
        cells = []
        for tokens in TOKENS:
            shapes = (
                jax.ShapeDtypeStruct((tokens, WIDTH), jnp.bfloat16),
                jax.ShapeDtypeStruct((VOCABULARY, WIDTH), jnp.float32),
                jax.ShapeDtypeStruct((tokens,), jnp.int32),
            )
            plan = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
            assert plan is not None, "all backends of XLA itself report a plan"
            cells.append(f"{plan.temp_size_in_bytes / 2**20:,.0f} MiB")
        print(f"| {name} | {' | '.join(cells)} |")


def _in_parts(hidden: jax.Array, embedding: jax.Array, targets: jax.Array) -> jax.Array:
    zeros, mask = jnp.zeros(VOCABULARY), jnp.ones(targets.shape, bool)
    cross_entropy = select("auto", jax.default_backend()).cross_entropy
    return cross_entropy(hidden, embedding, zeros, targets, mask, label_smoothing=0.1)[0]


def _at_once(hidden: jax.Array, embedding: jax.Array, targets: jax.Array) -> jax.Array:
    logits = jnp.asarray(hidden @ embedding.T.astype(hidden.dtype), jnp.float32)
    wanted = optax.smooth_labels(jax.nn.one_hot(targets, VOCABULARY), 0.1)
    return optax.softmax_cross_entropy(logits, wanted).sum()

"""The dearest operations of the compiled train step: what each costs, and its share of the step.

    python benchmarks/operations.py --size B

One step is compiled for a full batch of random tokens and profiled. Operations of the same kind, in the same place of
every layer, are one row; "gradient" marks the backward pass. A share is of the summed time of all operations, for some
of them run beside each other. Where XLA has fused several operations, the last of them gives its name to all.
"""

from peers.ours import model_of  # isort: skip  it sets the allocator, before jax

import argparse
import collections
import re
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
from peers.job import LABEL_SMOOTHING, SIZES, Size

from transformer.config import OptimizerConfig
from transformer.runtime import resolve_dtype
from transformer.shapes import Batch
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state, train_step

LENGTH, STEPS = 32, 4
CONTAINERS = ("while", "call", "conditional")  # their time is that of what they contain


def random_batch(size: Size) -> Batch:
    """As many full rows as the tokens of a batch allow, with the axis of accumulation steps."""
    rows = size.batch_tokens // LENGTH
    ids = np.random.default_rng(0).integers(3, size.vocabulary, (2, 1, rows, LENGTH), dtype=np.int32)
    mask, row = np.ones((1, rows, LENGTH), bool), np.arange(rows, dtype=np.int32)[None]
    return Batch(ids[0], mask, ids[1], ids[1], mask, row)


def kinds_of_operations(hlo: str) -> dict[str, str]:
    """What each instruction of a compiled module is: place in the model, operation, type of the result."""
    kinds = {}
    instruction = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\(")
    around = re.compile(r"(jit|jvp|transpose)\(|Transformer\.|while$|body$|closed_call$")
    for line in hlo.splitlines():
        found, path = instruction.match(line), re.search(r'op_name="([^"]*)"', line)
        if found is None or found[3] in CONTAINERS:
            continue
        parts = path[1].split("/") if path else [found[3]]
        place = "/".join(re.sub(r"_\d+$", "", part) for part in parts if not around.match(part))
        gradient = "gradient, " if path and "transpose(" in path[1] else ""
        if path and "/while/" in path[1]:
            place = f"loss/{place}"  # the one loop of a step: over the chunks of tokens
        kinds[found[1]] = f"{gradient}{place} | {re.sub(r'{.*?}', '', found[2])}"
    return kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--size", choices=SIZES, default="B")
    parser.add_argument("--number", type=int, default=10, help="of operations shown")
    options = parser.parse_args()
    size = SIZES[options.size]
    model = model_of(size, resolve_dtype("auto")[0])
    optimizer = make_optimizer(OptimizerConfig(), size.d_model, steps=100_000)
    step = partial(train_step, model=model, optimizer=optimizer, label_smoothing=LABEL_SMOOTHING, seed=0)
    state, batch = create_state(model, optimizer, seed=0), random_batch(size)
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
    seconds: collections.Counter[str] = collections.Counter()
    times: collections.Counter[str] = collections.Counter()
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in kinds:
                    seconds[kinds[event.name]] += event.duration_ns * 1e-9 / STEPS
                    times[kinds[event.name]] += 1
    total = sum(seconds.values())
    print(f"{options.size}, {model.dtype}: {total * 1e3:,.0f} ms of operations a step")
    print("\n| share | a step | times | operation | result |\n| ---: | ---: | ---: | --- | --- |")
    for kind, spent in seconds.most_common(options.number):
        print(f"| {spent / total:.1%} | {spent * 1e3:,.1f} ms | {times[kind] / STEPS:.0f} | {kind} |")


if __name__ == "__main__":
    main()

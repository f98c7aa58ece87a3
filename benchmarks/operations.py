"""The dearest operations of the compiled train step: what each costs, and its share of the step.

    python benchmarks/operations.py --size B

One step is compiled for a full batch of random tokens and profiled. Operations of the same kind, in the same place of
every layer, are one row; "gradient" marks the backward pass. On a CPU, XLA runs operations that do not need each other
at the same time: such a time is divided among them, so that all rows together are the time in which anything ran.
"Alone" is the part of a row's operations in which nothing else did. Where XLA has fused several operations, the last of
them gives its name to all.
"""

from peers.ours import model_of, random_batch  # isort: skip  it sets the allocator, before jax

import argparse
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
from peers.job import LABEL_SMOOTHING, SIZES

from transformer.config import OptimizerConfig
from transformer.runtime import resolve_dtype
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state, train_step

STEPS = 4
CONTAINERS = ("while", "call", "conditional")  # their time is that of what they contain


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


def divide(events: Sequence[tuple[float, float, str]]) -> tuple[defaultdict[str, float], defaultdict[str, float]]:
    """The time of each kind of operation, and the part of it in which no other operation ran.

    Args:
        events: start, end and kind of each operation; it may end when it starts.
    """
    edges = [(start, False, n) for n, (start, _, _) in enumerate(events)]
    edges += [(end, True, n) for n, (_, end, _) in enumerate(events)]
    spent, alone = defaultdict[str, float](float), defaultdict[str, float](float)
    running: set[int] = set()
    since = 0.0
    for time, ends, n in sorted(edges):
        if time > since:
            for other in running:
                spent[events[other][2]] += (time - since) / len(running)
            if len(running) == 1:
                alone[events[min(running)][2]] += time - since
        since = time
        if ends:
            running.remove(n)
        else:
            running.add(n)
    return spent, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--size", choices=SIZES, default="B")
    parser.add_argument("--number", type=int, default=10, help="of operations shown")
    options = parser.parse_args()
    size = SIZES[options.size]
    model = model_of(size, resolve_dtype("auto")[0])
    optimizer = make_optimizer(OptimizerConfig(), size.d_model, steps=100_000)
    step = partial(train_step, model=model, optimizer=optimizer, label_smoothing=LABEL_SMOOTHING, seed=0)
    state = create_state(model, optimizer, seed=0)
    batch = jax.tree.map(lambda x: x[None], random_batch(size))  # one accumulation step
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
        (str(dict(event.stats).get("hlo_op", event.name)), event)  # on a GPU an event has its kernel's name
        for plane in profile.planes
        for line in plane.lines
        for event in line.events
    ]
    events = [
        (event.start_ns, event.start_ns + event.duration_ns, kinds[name]) for name, event in named if name in kinds
    ]
    if not events:
        sys.exit("error: the profile has no event of the compiled step: this device names them in another way.")
    spent, alone = divide(events)
    times = Counter(kind for *_, kind in events)
    total = sum(spent.values())
    print(f"{options.size}, {model.dtype}: operations run for {total / STEPS * 1e-6:,.0f} ms a step")
    print("\n| share | a step | alone | times | operation | result |\n| ---: | ---: | ---: | ---: | --- | --- |")
    for kind, time in sorted(spent.items(), key=lambda item: -item[1])[: options.number]:
        milliseconds, times_a_step = time / STEPS * 1e-6, times[kind] / STEPS
        print(
            f"| {time / total:.1%} | {milliseconds:,.1f} ms | {alone[kind] / time:.0%} | {times_a_step:.0f} | {kind} |"
        )


if __name__ == "__main__":
    main()

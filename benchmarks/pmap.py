"""What `jax.pmap` costs on one device against plain `jax.jit`: the same train step, in turns.

    python benchmarks/pmap.py

prints the median time of both and the median of the ratios, pair by pair. The model is size S of `training.py`, on 128
random pairs of 32 tokens.
"""

from peers.ours import model_of, random_batch  # isort: skip  it sets the allocator, before jax

import statistics
import time
from functools import partial

import jax
from peers.job import LABEL_SMOOTHING, SIZES

from transformer.config import OptimizerConfig
from transformer.runtime import resolve_dtype
from transformer.training import parallel
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state, train_step

SIZE, PAIRS_OF_RUNS = SIZES["S"], 30


def main() -> None:
    model = model_of(SIZE, resolve_dtype("auto")[0])
    optimizer = make_optimizer(OptimizerConfig(), SIZE.d_model, steps=100_000)
    step = partial(train_step, model=model, optimizer=optimizer, label_smoothing=LABEL_SMOOTHING, seed=0)
    split = parallel.split(random_batch(SIZE), 1)
    share = jax.tree.map(lambda x: x[0], split)
    programs = {
        "jit": (jax.jit(step, donate_argnums=0), share),
        "pmap": (parallel.map_train_step(partial(step, axis_name=parallel.AXIS)), split),
    }
    states = {name: create_state(model, optimizer, seed=0) for name in programs}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for run in range(PAIRS_OF_RUNS + 2):
        for name, (program, batch) in programs.items():
            start = time.perf_counter()
            states[name], metrics = program(states[name], batch)
            jax.block_until_ready((states[name], metrics))
            if run >= 2:  # the first compiles, the second settles the memory
                seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"{name:5} {statistics.median(times) * 1e3:7.1f} ms   ({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f})")
    ratios = [b / a for a, b in zip(seconds["jit"], seconds["pmap"], strict=True)]
    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"pmap / jit {statistics.median(ratios):.3f} on one device ({device})")


if __name__ == "__main__":
    main()

"""What `jax.pmap` costs on one device against plain `jax.jit`: the same train step, in turns.

    python benchmarks/pmap.py

prints the median time of both and the median of the ratios, pair by pair. The model is d_model 256, 3 + 3 layers, on
170 random pairs of 18 to 24 tokens.
"""

from transformer.runtime import keep_freed_memory

keep_freed_memory()

import statistics
import time
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from transformer.config import ModelConfig, OptimizerConfig
from transformer.model import Transformer
from transformer.runtime import resolve_dtype
from transformer.shapes import Batch
from transformer.training import parallel
from transformer.training.optimizer import make_optimizer
from transformer.training.step import create_state, train_step

CONFIG = replace(
    ModelConfig(), vocabulary_size=8000, d_model=256, num_heads=4, d_ff=1024, num_encoder_layers=3, num_decoder_layers=3
)
ROWS, LENGTH, PAIRS_OF_RUNS = 170, 24, 30


def random_batch() -> Batch:
    generator = np.random.default_rng(0)
    source, target = generator.integers(3, CONFIG.vocabulary_size, (2, ROWS, LENGTH), dtype=np.int32)
    source_mask, target_mask = np.arange(LENGTH) < generator.integers(18, LENGTH + 1, (2, ROWS, 1))
    return Batch(source, source_mask, target, target, target_mask, np.arange(ROWS, dtype=np.int32))


def main() -> None:
    dtype, _ = resolve_dtype("auto")
    model = Transformer(CONFIG, dtype=jnp.dtype(dtype))
    optimizer = make_optimizer(OptimizerConfig(), CONFIG.d_model, steps=1000)
    step = partial(train_step, model=model, optimizer=optimizer, label_smoothing=0.1, seed=0)
    split = parallel.split(random_batch(), 1)
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

"""The start of a training run up to its first logged line, without text.

    python -m accelerators.parts.first_step quickstart|base STARTED [--tiny]

STARTED is the time at which the process was started, in seconds since the epoch. The last line of the output is JSON
with the seconds of each part of the start. The step is made as `training/loop.py` makes it, on random tokens.
"""

import json
import sys
import time
from pathlib import Path

from transformer.runtime import compute_before_returning, keep_freed_memory, use_compilation_cache

keep_freed_memory()
use_compilation_cache()
compute_before_returning()

import jax
import jax.numpy as jnp
from peers.job import SIZES

import transformer.training.loop  # noqa: F401  all that it imports is part of the start
from accelerators.parts.model import LENGTH, ROWS, make_step, packed_batch
from transformer.compilation import Compilations
from transformer.config import Config, TrainingConfig
from transformer.config_files import load_config
from transformer.training import parallel
from transformer.training.norms import by_layer
from transformer.training.optimizer import learning_rate
from transformer.training.step import create_state

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def config_of(name: str, tiny: bool) -> tuple[Config, int, int]:
    """The config of a run, the rows of its batch, and the tokens of a row on each side."""
    if tiny:
        return Config(model=SIZES["tiny"].config(), training=TrainingConfig(log_every=3)), 4, 16
    config = load_config(str(CONFIGS / f"{'quickstart' if name == 'quickstart' else 'wmt14_base'}.py"))
    if name == "quickstart":
        length = config.training.pack_length or config.data.max_length
        return config, config.training.batch_tokens // length, length
    return config, ROWS, LENGTH


def main() -> None:
    name, started, *tiny = sys.argv[1:]
    times = {"imports": time.time() - float(started)}

    def passed(part: str) -> None:
        times[part] = time.time() - float(started) - sum(times.values())

    config, rows, length = config_of(name, bool(tiny))
    batch = parallel.split(packed_batch(config.model.vocabulary_size, rows, length), 1)
    passed("batch")
    jax.devices()
    passed("device")
    with Compilations(lambda text: print(text, file=sys.stderr)) as compilations:
        model, optimizer, step = make_step(config.model, config.optimizer, config.training.label_smoothing)
        rate = learning_rate(config.optimizer, config.model.d_model, config.training.steps)
        state = jax.block_until_ready(parallel.replicate(create_state(model, optimizer, config.seed)))
        passed("parameters")
        state, metrics = step(state, batch)
        values = by_layer(jax.device_get(metrics))
        passed("first_step")
        first = sum(times.values())
        for _ in range(config.training.log_every - 1):
            state, metrics = step(state, batch)
        values, shown = by_layer(jax.device_get(metrics)), float(jnp.asarray(rate(0)))
        passed("further_steps")
    found = {f"{part}_seconds": seconds for part, seconds in times.items()} | {
        "first_step_after_seconds": first,
        "first_line_after_seconds": sum(times.values()),
        "compiled_programs": len(compilations.compiled),
        "compile_seconds": sum(compilations.compiled) + sum(compilations.small),
        "loaded_programs": len(compilations.cached),
        "load_seconds": sum(compilations.cached),
        "loss": values["loss_sum"] / values["target_tokens"],
        "learning_rate": shown,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

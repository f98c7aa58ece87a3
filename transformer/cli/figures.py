"""`transformer figures`: the lecture's pictures of positions and schedule, and how runs have learned."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import Positional

from transformer.config import ModelConfig
from transformer.errors import InputError
from transformer.files import write_whole


@dataclass(frozen=True)
class FigureOptions:
    """Draw position encodings (curves by dimension, heat map, dot products by distance) and the warm-up schedule; of
    runs also the rate that they have logged, on the schedule of their config, and their learning curves."""

    runs: Positional[tuple[str, ...]] = ()
    """Run directories, finished or not."""
    output: str = "figures"
    """The directory to write to; made if it is not there."""
    format: Literal["png", "svg"] = "png"
    """The pictures' format."""
    d_model: int = 128
    """Dimensions of the position encodings."""
    length: int = 100
    """Positions drawn."""
    layout: Literal["interleaved", "halved", "halved_t2t"] = "interleaved"
    """Order and wavelengths of the sinusoids; the paper's are interleaved."""
    schedules: tuple[str, ...] = ("512:4000", "512:8000", "256:4000")
    """Schedules of Eq. 3, each as d_model:warm-up steps."""


def main(arguments: list[str]) -> None:
    """Draw positions, schedules and learning curves."""
    options = tyro.cli(FigureOptions, args=arguments, prog="transformer figures")
    ModelConfig(d_model=options.d_model, num_heads=1, positions=options.layout)  # has the checks
    if not 2 <= options.length <= 4096:
        raise InputError(f"--length must lie between 2 and 4,096, but is {options.length}.")
    pairs = [_pair(text) for text in options.schedules]
    import numpy as np

    from transformer.analysis.figures import learning, positions, to_bytes
    from transformer.analysis.history import read_histories
    from transformer.ops.positions import sinusoidal_positions
    from transformer.training.optimizer import learning_rate, paper_schedule, rates

    histories = read_histories(options.runs)
    table = np.asarray(sinusoidal_positions(options.length, options.d_model, options.layout))
    pictures = {
        "position_curves": partial(positions.curves, table, options.layout),
        "position_heat_map": partial(positions.heat_map, table),
        "position_dot_products": partial(positions.dot_products, table),
    }
    if pairs:
        steps = 5 * max(warmup_steps for _, warmup_steps in pairs) // 2
        pictures["warmup"] = partial(learning.warmup, {pair: rates(paper_schedule(*pair), steps) for pair in pairs})
    if histories:
        schedules = [
            rates(learning_rate(config.optimizer, config.model.d_model, config.training.steps), config.training.steps)
            for config in (history.config for history in histories)
        ]
        pictures["learning_rates"] = partial(learning.learning_rates, histories, schedules)
        pictures["learning_curves"] = partial(learning.learning_curves, histories)
    drawn = {name: to_bytes(draw, options.format) for name, draw in pictures.items()}
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in drawn.items():
        file = folder / f"{name}.{options.format}"
        write_whole(file, data)
        print(file)


def _pair(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,6}):([1-9]\d{0,6})", text)
    if found is None:
        raise InputError(f"A schedule is written d_model:warm-up steps, such as 512:4000, but {text} was given.")
    return int(found[1]), int(found[2])

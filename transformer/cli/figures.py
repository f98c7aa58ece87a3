"""The `transformer figures` command, which plots schedules and learning curves."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from transformer.cli import process
from transformer.cli.options import parse
from transformer.config import ModelConfig
from transformer.errors import InputError
from transformer.files import write_whole


@dataclass(frozen=True)
class FigureOptions:
    """Plot position encodings, learning-rate schedules and learning curves.

    Always drawn: sinusoidal position encodings (curves by dimension, a heat map, dot products by distance) and the
    paper's warm-up schedule. With run directories also the learning rate that each run logged, on the schedule of its
    config, and its training and validation loss. Needs matplotlib: pip install 'transformer-jax[plot]'.

        transformer figures runs/quickstart --output figures"""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="[RUN ...]")] = ()
    """Run directories, finished or still training."""
    output: str = "figures"
    """Directory to write to. It is created if missing. Pictures of the same name are replaced."""
    format: Literal["png", "svg"] = "png"
    """File format of the pictures."""
    d_model: int = 128
    """Dimensions of the position encodings."""
    length: int = 100
    """Number of positions to draw, from 2 to 4,096."""
    layout: Literal["interleaved", "halved", "halved_t2t"] = "interleaved"
    """Order and wavelengths of the sinusoids, as in `train --model.positions`. The paper interleaves them."""
    schedules: tuple[str, ...] = ("512:4000", "512:8000", "256:4000")
    """Warm-up schedules to draw (section 5.3, Eq. 3), each as d_model:warmup_steps."""


def main(arguments: list[str]) -> None:
    """Plots position encodings, learning-rate schedules and learning curves."""
    options = parse(FigureOptions, arguments, "figures")
    with process.options_of("model", positions="layout"):
        ModelConfig(d_model=options.d_model, num_heads=1, positions=options.layout)  # has the checks
    if not 2 <= options.length <= 4096:
        raise InputError(f"--length must be between 2 and 4,096, but is {options.length}.")
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
        raise InputError(f"--schedules takes d_model:warmup_steps, such as 512:4000, but got {text}.")
    return int(found[1]), int(found[2])

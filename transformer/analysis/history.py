"""What runs have logged during training, as arrays."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from transformer.config import Config
from transformer.errors import InputError
from transformer.files import read_regular
from transformer.run_dir import read_config


class Curve(NamedTuple):
    """The steps at which a quantity was logged, and its values."""

    steps: Int[np.ndarray, " N"]
    values: Float[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class History:
    """What one run has logged.

    Attributes:
        name: the name of the run among those that were read with it.
        config: the run's config.
        curves: by their names in `metrics.jsonl`. `loss` and `learning_rate` are always there. The loss is the training
            loss in nats per target token, with label smoothing and dropout, averaged over the updates since the value
            before. `validation_loss` is without either. `validation_loss` and `validation_bleu` are there if logged.
    """

    name: str
    config: Config
    curves: dict[str, Curve]


def read_histories(run_dirs: Sequence[str | Path]) -> list[History]:
    """Reads what runs have logged, whether they are finished or still training.

    Args:
        run_dirs: the run directories. A run is named by its path from the deepest directory that contains all of them.

    Raises:
        InputError: a directory is not a run directory, its log has no training loss yet, or a line of it is damaged.
    """
    paths = [Path(run_dir).resolve() for run_dir in run_dirs]
    above = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [
        History(str(path.relative_to(above)), read_config(run_dir), _read(path / "metrics.jsonl", run_dir))
        for path, run_dir in zip(paths, run_dirs, strict=True)
    ]


def _read(file: Path, run_dir: str | Path) -> dict[str, Curve]:
    # After the last line end comes what is being written, or was being written when the run was killed.
    lines = read_regular(file).split(b"\n")[:-1] if file.exists() else []
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
            for name, value in values.items():
                found[name].append((step, math.nan if value is None else float(value)))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"Line {number} of {file} is damaged. Restore the file, or leave out this run.") from error
    if not {"loss", "learning_rate"} <= found.keys():
        raise InputError(f"The run in {run_dir} has not logged a training loss yet. Wait, or leave out this run.")
    return {name: Curve(*map(np.array, zip(*points, strict=True))) for name, points in found.items()}

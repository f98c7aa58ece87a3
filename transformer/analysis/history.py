"""What a run has logged on its way, as arrays."""

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
from transformer.run_dir import read_config


class Curve(NamedTuple):
    """A value over a run's updates, where it was logged."""

    steps: Int[np.ndarray, " N"]
    values: Float[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class History:
    """What a run has logged.

    Attributes:
        name: what tells the run from others that were read with it.
        config: the run's.
        curves: by the names of `metrics.jsonl`. `loss` and `learning_rate` are there; the loss is the training loss in
            nats per target token, with label smoothing and dropout, on the mean of the updates since the one before.
            `validation_loss`, without either, and `validation_bleu` are there if the run had them.
    """

    name: str
    config: Config
    curves: dict[str, Curve]


def read_histories(run_dirs: Sequence[str | Path]) -> list[History]:
    """What runs have logged, finished or not.

    Args:
        run_dirs: their directories. A run's name is its path from where all of them lie.

    Raises:
        InputError: a directory is not that of a run, its log has no training loss yet, or a line of it is damaged.
    """
    paths = [Path(run_dir).resolve() for run_dir in run_dirs]
    above = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [
        History(str(path.relative_to(above)), read_config(run_dir), _read(path / "metrics.jsonl", run_dir))
        for path, run_dir in zip(paths, run_dirs, strict=True)
    ]


def _read(file: Path, run_dir: str | Path) -> dict[str, Curve]:
    # Behind the end of the last line stands what is being written, or was when the run was killed.
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
            for name, value in values.items():
                found[name].append((step, math.nan if value is None else float(value)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"Line {number} of {file} is damaged: restore it, or leave this run out.") from error
    if not {"loss", "learning_rate"} <= found.keys():
        raise InputError(f"The run in {run_dir} has not logged a training loss yet: wait for it, or leave it out.")
    return {name: Curve(*map(np.array, zip(*points, strict=True))) for name, points in found.items()}

"""What goes to `metrics.jsonl`, also for TensorBoard and Weights & Biases.

Each logger writes a folder of its own in the run directory. When a run is resumed, the folder is written anew from the
lines of `metrics.jsonl` that are kept, so no step is there twice.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformer.config import Config
from transformer.errors import require

Write = Callable[[int, Mapping[str, Any]], None]
"""Writes the values of a step, by name."""

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def require_packages(loggers: Sequence[str]) -> None:
    """Raises InputError unless the packages of the loggers are installed."""
    for logger in loggers:
        require(
            find_spec(PACKAGES[logger]) is not None,
            f"--training.loggers {logger} needs the package {PACKAGES[logger]}. Install it with: "
            f"pip install 'transformer-jax[{logger}]'",
        )


@contextmanager
def opened(config: Config) -> Iterator[list[Write]]:
    """Opens the loggers of a config, in its run directory, without what they have written before."""
    run_dir = Path(config.run_dir).resolve()
    with ExitStack() as stack:
        yield [stack.enter_context(LOGGERS[logger](run_dir, config)) for logger in config.training.loggers]


@contextmanager
def tensorboard(run_dir: Path, _: Config) -> Iterator[Write]:
    """Writes scalars to `tensorboard/`. A value that is not finite, or no number, is left out."""
    from tensorboardX import SummaryWriter

    folder = run_dir / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:

        def write(step: int, values: Mapping[str, Any]) -> None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    writer.add_scalar(name, value, step)
            writer.flush()

        yield write


@contextmanager
def wandb(run_dir: Path, config: Config) -> Iterator[Write]:
    """Writes a run to `wandb/`, offline. `wandb sync` uploads it, when the user calls it."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # reports would use the network, also offline
    import wandb as library

    shutil.rmtree(run_dir / "wandb", ignore_errors=True)
    settings = library.Settings(console="off", disable_git=True, disable_code=True, symlink=False, silent=True)
    run = library.init(
        project="transformer",
        name=run_dir.name,
        dir=str(run_dir),
        config=asdict(config),
        mode="offline",
        settings=settings,
    )
    with run:
        yield lambda step, values: run.log({name: value for name, value in values.items() if value is not None}, step)


LOGGERS: dict[str, Callable[[Path, Config], Any]] = {"tensorboard": tensorboard, "wandb": wandb}
"""The choices of `training.loggers`."""

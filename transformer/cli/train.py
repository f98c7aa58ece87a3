"""`transformer train`: train, then score the test set."""

import sys
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import tyro

from transformer.config import Config
from transformer.config_files import load_config
from transformer.interruption import Interrupted, deferred


@dataclass(frozen=True)
class ExperimentOption:
    """Where the defaults of all other options come from."""

    config: str = "quickstart"
    """The experiment to start from: quickstart, multi30k, base (the paper's base model), wmt14_base, wmt14_big, or the
    path of a Python file like theirs. Every other option changes one field of it."""


@dataclass(frozen=True)
class TrainingOptions(Config, ExperimentOption):
    """Train a Transformer and score it. The same command resumes a run."""


def main(arguments: list[str]) -> None:
    """Train, then score the test set."""
    config = parse_config(arguments)
    from transformer.experiment import run
    from transformer.run_dir import records

    try:
        with deferred(partial(print, file=sys.stderr, flush=True)):
            run(config)
    except Interrupted as error:
        saved = records(config.run_dir) if (Path(config.run_dir) / "config.json").exists() else []
        advice = "No checkpoint was saved, so the same command starts over."
        if saved:
            advice = f"The same command resumes from step {saved[-1].step:,}."
        raise Interrupted(error.signal, advice) from None


def parse_config(arguments: list[str]) -> Config:
    """The config that `transformer train` was asked for: an experiment's, with options on top.

    Raises: InputError if the experiment cannot be loaded, or an option fails its check.
    """
    program = "transformer train"
    experiment, _ = tyro.cli(ExperimentOption, args=arguments, prog=program, add_help=False, return_unknown_args=True)
    default = TrainingOptions(experiment.config, **vars(load_config(experiment.config)))
    options = tyro.cli(TrainingOptions, default=default, args=arguments, prog=program)
    return Config(**{field.name: getattr(options, field.name) for field in fields(Config)})

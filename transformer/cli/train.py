"""`transformer train`: train, then score the test set."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from transformer.config import Config
from transformer.config_files import load_config


@dataclass(frozen=True)
class ExperimentOption:
    """Where the defaults of all other options come from."""

    config: str = "quickstart"
    """The experiment to start from: quickstart, multi30k, base (the paper's base model), wmt14_base, wmt14_big, or the
    path of a Python file like theirs. Every other option changes one field of it."""


@dataclass(frozen=True)
class TrainingOptions(ExperimentOption):
    """Train a Transformer and score it. The same command resumes a run."""

    fields: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def main(arguments: list[str]) -> None:
    """Train, then score the test set."""
    config = parse_config(arguments)
    from transformer.experiment import run

    run(config)


def parse_config(arguments: list[str]) -> Config:
    """The config that `transformer train` was asked for: an experiment's, with options on top.

    Raises: InputError if the experiment cannot be loaded, or an option fails its check.
    """
    program = "transformer train"
    experiment, _ = tyro.cli(ExperimentOption, args=arguments, prog=program, add_help=False, return_unknown_args=True)
    default = TrainingOptions(experiment.config, load_config(experiment.config))
    return tyro.cli(TrainingOptions, default=default, args=arguments, prog=program).fields

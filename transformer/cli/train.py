"""`transformer train`: train, then score the test set."""

import argparse
import dataclasses
from dataclasses import dataclass

import tyro

from transformer.config import Config
from transformer.config_files import load_config


@dataclass(frozen=True)
class TrainingOptions(Config):
    """Train a Transformer and score it. The same command resumes a run."""

    config: str | None = None
    """Start from this file, such as configs/multi30k.py, instead of the defaults (the paper's base model); every other
    option changes one field of it."""


def main(arguments: list[str]) -> None:
    """Train, then score the test set."""
    config = parse_config(arguments)
    from transformer.experiment import run

    run(config)


def parse_config(arguments: list[str]) -> Config:
    """The config that `transformer train` was asked for: a config file's or the defaults, with options on top."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", nargs="?")  # a missing value is tyro's to complain of
    file = first.parse_known_args(arguments)[0].config
    base = Config() if file is None else load_config(file)
    names = [field.name for field in dataclasses.fields(Config)]
    default = TrainingOptions(**{name: getattr(base, name) for name in names}, config=file)
    options = tyro.cli(TrainingOptions, default=default, args=arguments, prog="transformer train")
    return Config(**{name: getattr(options, name) for name in names})

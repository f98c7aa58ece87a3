"""The `transformer train` command, which trains a run and scores its test set."""

import dataclasses
import re
import shlex
import sys
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tyro

from transformer.cli.options import parse
from transformer.config import Config
from transformer.config.fine_tuning import RUN_DIR
from transformer.config_files import load_config
from transformer.errors import InputError, require
from transformer.interruption import Interrupted, deferred
from transformer.joining import joined


@dataclass(frozen=True)
class ExperimentOption:
    """The experiment that all other options start from."""

    config: str | None = None
    """The experiment to start from: quickstart, multi30k, base (the paper's base model), wmt14_base, wmt14_big, or the
    path of a Python file that defines `config`. Every other option changes one field of it. By default quickstart, or
    with --init-from a config for fine-tuning."""


@dataclass(frozen=True)
class StartingPoint(ExperimentOption):
    """The options that decide which config the other options change."""

    init_from: str | None = None
    run_dir: str | None = None

    def config_to_change(self) -> Config:
        """The experiment that --config names, the config of a fine-tuned run that is resumed, or a default.

        Raises:
            InputError: The experiment, or the run that --init-from names, cannot be loaded.
        """
        if self.config is not None:
            return load_config(self.config)
        run_dir = Path(self.run_dir or RUN_DIR)
        if (self.init_from or self.run_dir) and (run_dir / "config.json").exists():
            from transformer.run_dir import read_config

            own = read_config(run_dir)
            if own.init_from is not None:
                return dataclasses.replace(own, run_dir=str(run_dir))
        if self.init_from is None:
            return load_config("quickstart")
        from transformer.origin import fine_tuning_config

        return fine_tuning_config(self.init_from)


@dataclass(frozen=True)
class ConfigOptions(Config, ExperimentOption):
    """The options of a command that has every field of a config."""

    def __post_init__(self) -> None:
        """Checks nothing.

        An error at this point would be printed by tyro, with the names of fields instead of options.
        """


Options = TypeVar("Options", bound=ConfigOptions)


@dataclass(frozen=True)
class TrainingOptions(ConfigOptions):
    """Train a model, then translate and score its test set.

    Without options this trains the quickstart, a small model on a synthetic English-German corpus that comes with the
    package. The defaults shown are taken from the experiment that --config names.

        transformer train
        transformer train --config base --data.train a.en a.de --run-dir runs/mine
        transformer train --init-from runs/mine --data.train b.en b.de --run-dir runs/tuned

    Everything is written to --run-dir: config, tokenizer, log, checkpoints, translations and scores. Ctrl-C and SIGTERM
    save a checkpoint and stop. The same command resumes from the last checkpoint. JAX computes on a GPU or TPU if it
    finds one (pip install 'transformer-jax[cuda12]' or [tpu]), otherwise on the CPU."""

    profile: int | None = None
    """Trace this many steps for JAX's profiler, into the directory `profile` of the run. The first two steps, which
    compile, are not traced. Results are the same with or without it."""
    stop_after: int | None = None
    """Stop after this step, with a checkpoint and without scoring the test set. The learning rate is the one of the
    whole run, and the same command without this option resumes."""
    verify_resume: bool = False
    """Instead of training, check that this config resumes bit for bit on this machine. This trains six steps in
    a temporary directory, resumes from the checkpoint of step 4 in a new process, and compares the results."""


def main(arguments: list[str]) -> None:
    """Trains, then scores the test set."""
    config, options = parse_options(TrainingOptions, arguments, "train")
    if options.verify_resume:
        given = [f"--{name}" for name in ("profile", "stop-after") if getattr(options, name.replace("-", "_"))]
        require(not joined(), "--verify-resume starts processes of its own. Start it in one process.")
        require(not given, f"--verify-resume trains runs of its own. Leave out {' and '.join(given)}.")
        from transformer.cli.resuming import verify_resume

        verify_resume(config)
        return
    from transformer.checkpoint_records import records
    from transformer.experiment import run

    try:
        with deferred(partial(print, file=sys.stderr, flush=True), agreed=joined()):
            command = shlex.join(["transformer", "train", *arguments])
            run(config, options.profile, options.stop_after, command=command)
    except Interrupted as error:
        saved = records(config.run_dir) if (Path(config.run_dir) / "config.json").exists() else []
        advice = "No checkpoint was saved, so the same command starts over."
        if saved:
            advice = f"The same command resumes from step {saved[-1].step:,}."
        raise Interrupted(error.signal, advice) from None


def parse_config(arguments: list[str]) -> Config:
    """The config of a `transformer train` command."""
    return parse_options(TrainingOptions, arguments, "train")[0]


def parse_options(kind: type[Options], arguments: list[str], command: str) -> tuple[Config, Options]:
    """The config that a command's options make, and all of its options.

    The config is the experiment's, in which the given options replace fields.

    Args:
        kind: the options.
        arguments: the arguments after the command.
        command: its name.

    Raises:
        InputError: the experiment cannot be loaded, or an option is invalid.
    """
    start, _ = tyro.cli(StartingPoint, args=arguments, add_help=False, return_unknown_args=True)
    config = start.config_to_change()
    values = {field.name: _unchecked(getattr(config, field.name)) for field in fields(Config)}
    options = parse(kind, arguments, command, default=kind(config=start.config, **values))
    try:
        values = {field.name: _checked(field.type, getattr(options, field.name)) for field in fields(Config)}
        return Config(**values), options
    except InputError as error:
        raise InputError(options_in(str(error))) from error


def options_in(text: str) -> str:
    """Replaces names of config fields in a text by options, such as `--model.d-model`."""
    names = [field.name for field in fields(Config) if not is_dataclass(field.type)]
    for part in fields(Config):
        if is_dataclass(part.type):
            names += [f"{part.name}.{field.name}" for field in fields(part.type)]
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    # A top-level name may also be an ordinary word, so it must begin the sentence.
    return re.sub(
        rf"(?<![\w./-])(?:{known})\b(?!\.\w)",
        lambda found: f"--{found[0].replace('_', '-')}" if "." in found[0] or found.start() == 0 else found[0],
        text,
    )


def _unchecked(value: Any) -> Any:
    """The same part of a config, in a class that checks nothing."""
    if not is_dataclass(value):
        return value
    namespace = {"__post_init__": lambda self: None, "__doc__": type(value).__doc__}
    unchecked = make_dataclass(type(value).__name__, [], bases=(type(value),), namespace=namespace, frozen=True)
    return unchecked(**vars(value))


def _checked(cls: Any, value: Any) -> Any:
    return cls(**vars(value)) if is_dataclass(value) else value

"""What every command that uses a trained run asks for: which checkpoint of it, and how it searches."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from transformer.compilation import announce_compilations
from transformer.config import Config, SearchConfig
from transformer.errors import InputError
from transformer.runtime import resolve_dtype, unused_accelerator

if TYPE_CHECKING:
    from transformer.inference.translator import Translator

Checkpoint = Literal["last", "best"] | int
Dtype = Literal["auto", "float32", "bfloat16"]
Options = TypeVar("Options", bound="DecodingOptions")


@dataclass(frozen=True)
class RunOptions:
    """Which run, and which of its checkpoints. What is not given is as the run's config says."""

    run: Positional[str]
    """The run directory."""
    checkpoint: Checkpoint = "last"
    """The last checkpoint, the one of lowest validation loss, or the one of a step."""
    average: int | None = None
    """Take the mean of this many checkpoints, this one and those before it."""


@dataclass(frozen=True)
class DecodingOptions(RunOptions):
    """Which run translates, and how."""

    ensemble: tuple[str, ...] = ()
    """Further runs with the same tokenizer: the mean of all models' probabilities is searched. RUN@STEP, RUN@best or
    RUN@last is another checkpoint than --checkpoint names, perhaps of the same run."""
    search: OmitArgPrefixes[SearchConfig] = field(default_factory=SearchConfig)


def parse(options: type[Options], arguments: list[str], command: str) -> Options:
    """A command's options; those of the search are the run's unless given."""
    runs = [argument for argument in arguments if os.path.isfile(os.path.join(argument, "config.json"))]
    # Behind --ensemble stand further runs, and the run itself may stand before or behind them.
    further = arguments.index("--ensemble") if "--ensemble" in arguments else len(arguments)
    first = next((run for run in runs if arguments.index(run) < further), runs[-1] if runs else None)
    search = SearchConfig()
    if first is not None:
        from transformer.run_dir import read_config

        search = read_config(first).search
    fields = [("search", OmitArgPrefixes[SearchConfig], field(default=search))]
    configured = make_dataclass(options.__name__, fields, bases=(options,), frozen=True)
    return tyro.cli(configured, args=arguments, prog=f"transformer {command}", description=options.__doc__)


class Member(NamedTuple):
    """A run that translates, and the steps of the checkpoints that are averaged."""

    run: str
    steps: list[int]


def members_of(options: RunOptions) -> list[Member]:
    """The run and the further ones of an ensemble.

    Raises: InputError if one is none, or has not the checkpoints asked for.
    """
    from transformer.run_dir import checkpoint_steps

    others = options.ensemble if isinstance(options, DecodingOptions) else ()
    named: list[tuple[str, Checkpoint]] = [(options.run, options.checkpoint)]
    named += [_named(other, options) for other in others]
    return [Member(run, checkpoint_steps(run, checkpoint, options.average)) for run, checkpoint in named]


def load_translator(
    options: RunOptions, dtype: Dtype | None = None, members: Sequence[Member] | None = None
) -> "Translator":
    """The run's translator, or that of the ensemble; in the run's compute type unless another is given."""
    from transformer.inference.translator import ensemble, load

    prepare(options.run, dtype)
    members = members_of(options) if members is None else members
    return ensemble([load(run, steps[-1], len(steps), dtype) for run, steps in members])


def _named(name: str, options: RunOptions) -> tuple[str, Checkpoint]:
    """A further run of an ensemble, and its checkpoint."""
    run, at, checkpoint = name.rpartition("@")
    if not at or os.path.isdir(name):
        return name, options.checkpoint
    if checkpoint == "last" or checkpoint == "best":
        return run, checkpoint
    if not checkpoint.isdecimal():
        raise InputError(f"A checkpoint of an ensemble is named RUN@STEP, RUN@best or RUN@last, but {name!r} is not.")
    return run, int(checkpoint)


def prepare(run: str, dtype: Dtype | None = None) -> Config:
    """A run's config. Says on standard error what computes, and from then on what takes long to compile."""
    from transformer.run_dir import read_config

    config = read_config(run)
    resolved, reason = resolve_dtype(config.model.dtype if dtype is None else dtype)
    print(f"compute dtype: {resolved} ({reason})", file=sys.stderr)
    if (advice := unused_accelerator()) is not None:
        print(advice, file=sys.stderr)
    announce_compilations()
    return config

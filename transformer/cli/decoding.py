"""What every command that uses a trained run asks for: which checkpoint of it, how it computes and how it searches."""

import dataclasses
import os
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from transformer.compilation import announce_compilations
from transformer.config import Config, SearchConfig
from transformer.errors import InputError
from transformer.runtime import resolve_dtype, unused_accelerator
from transformer.stages import stage

if TYPE_CHECKING:
    from transformer.inference.translator import Translator

Checkpoint = Literal["last", "best"] | int
Dtype = Literal["auto", "bfloat16", "float32"]
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
    dtype: Dtype | None = None
    """Compute type; `auto` is bfloat16 where the hardware has it. Unless given, the run's."""


@dataclass(frozen=True)
class SearchOptions(SearchConfig):
    """Each option of the search that is not given has the value in the run's config. The defaults shown are those of a
    new run."""

    def __post_init__(self) -> None:
        """Nothing is checked before the run's own values are known."""


@dataclass(frozen=True)
class DecodingOptions(RunOptions):
    """Which run translates, and how."""

    ensemble: tuple[str, ...] = ()
    """Further runs with the same tokenizer: the mean of all models' probabilities is searched. RUN@STEP, RUN@best or
    RUN@last is another checkpoint than --checkpoint names, perhaps of the same run."""
    search: OmitArgPrefixes[SearchConfig] = field(default_factory=SearchOptions)


def parse(options: type[Options], arguments: list[str], command: str) -> Options:
    """A command's options; those of the search and of the scores are the run's unless given.

    The arguments are parsed twice: for the name of the run, and again with the run's own as defaults.

    Raises: InputError if there is no such run, or a setting of the search fails its check.
    """
    parse_with = partial(tyro.cli, args=arguments, prog=f"transformer {command}")
    run = parse_with(options).run
    from transformer.run_dir import read_config

    config = read_config(run)
    own: dict[str, Any] = {"search": SearchOptions(**vars(config.search))}
    if "scores" in (field.name for field in dataclasses.fields(options)):
        own["scores"] = config.scores
    parsed = parse_with(partial(options, **own))
    return dataclasses.replace(parsed, search=SearchConfig(**vars(parsed.search)))


class Member(NamedTuple):
    """A run that translates, and the steps of the checkpoints that are averaged."""

    run: str
    steps: list[int]


def load_members(options: RunOptions) -> tuple["Translator", list[Member]]:
    """Loads the translator of a run or of an ensemble.

    Returns:
        The translator, and the checkpoints that each run was loaded from. They may be earlier ones than the options
        name, where those cannot be read.

    Raises:
        InputError: As for `inference.translator.load` and `ensemble`.
    """
    from transformer.inference.translator import ensemble, load

    prepare(options)
    others = options.ensemble if isinstance(options, DecodingOptions) else ()
    named = [(options.run, options.checkpoint), *(named_checkpoint(other, options.checkpoint) for other in others)]
    with stage(f"loading {options.run}", partial(print, file=sys.stderr, flush=True)):
        loaded = [load(run, checkpoint, options.average, options.dtype) for run, checkpoint in named]
    translator, members = (
        ensemble(loaded),
        [Member(run, [*one.checkpoints]) for (run, _), one in zip(named, loaded, strict=True)],
    )
    if isinstance(options, DecodingOptions):  # so that forced decoding has the batch size of the options, too
        config = dataclasses.replace(translator.config, search=options.search)
        translator = dataclasses.replace(translator, config=config)
    return translator, members


def load_translator(options: RunOptions) -> "Translator":
    """Loads the translator of a run or of an ensemble, as `load_members` does."""
    return load_members(options)[0]


def named_checkpoint(name: str, default: Checkpoint) -> tuple[str, Checkpoint]:
    """The run and the checkpoint that RUN@STEP, RUN@best or RUN@last names; of RUN alone, the default.

    Raises: InputError if what follows the @ is no checkpoint.
    """
    run, at, checkpoint = name.rpartition("@")
    if not at or os.path.isdir(name):
        return name, default
    if checkpoint == "last" or checkpoint == "best":
        return run, checkpoint
    if not checkpoint.isdecimal():
        raise InputError(f"A checkpoint is named RUN@STEP, RUN@best or RUN@last, but {name!r} is not.")
    return run, int(checkpoint)


def prepare(options: RunOptions) -> Config:
    """The run's config. Says on standard error what computes, and from then on what takes long to compile."""
    from transformer.run_dir import read_config

    config = read_config(options.run)
    resolved, reason = resolve_dtype(options.dtype or config.model.dtype)
    print(f"compute dtype: {resolved} ({reason})", file=sys.stderr)
    if (advice := unused_accelerator()) is not None:
        print(advice, file=sys.stderr)
    announce_compilations()
    return config

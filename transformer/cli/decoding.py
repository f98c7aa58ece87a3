"""Options shared by commands that use a trained run, and loading it.

They choose the checkpoint, the compute dtype and the search.
"""

import dataclasses
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

from tyro.conf import OmitArgPrefixes, Positional, arg

from transformer.cli.options import parse as parse_options
from transformer.cli.process import options_of
from transformer.compilation import announce_compilations
from transformer.config import Config, SearchConfig
from transformer.runtime import resolve_dtype, unused_accelerator
from transformer.stages import stage

if TYPE_CHECKING:
    from transformer.inference.translator import Translator

Checkpoint = Literal["last", "best"] | int
Dtype = Literal["auto", "bfloat16", "float32"]
Options = TypeVar("Options", bound="DecodingOptions")


@dataclass(frozen=True)
class RunOptions:
    """The run to use, and which of its checkpoints."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The run directory, such as runs/quickstart."""
    checkpoint: Checkpoint = "last"
    """`last`, `best` (lowest validation loss), or the step of a checkpoint."""
    average: int | None = None
    """Average the parameters of this many checkpoints: the chosen one and those before it. By default the run's
    configured number for the last checkpoint, and 1 for any other."""
    dtype: Dtype | None = None
    """Compute dtype; `auto` is bfloat16 where the hardware supports it. By default the run's."""


@dataclass(frozen=True)
class SearchOptions(SearchConfig):
    """How translations are searched for (section 6.1).

    Options that are not given have the value in the run's config. The defaults shown here apply to new runs."""

    def __post_init__(self) -> None:
        """Checks nothing, because the run's own values are not known yet."""


@dataclass(frozen=True)
class DecodingOptions(RunOptions):
    """The run or ensemble that translates, and its search settings."""

    ensemble: tuple[str, ...] = ()
    """Further runs with the same tokenizer: the search uses the mean of all models' probabilities. RUN alone uses
    the checkpoint of --checkpoint; RUN@STEP, RUN@best or RUN@last choose one, perhaps of the same run."""
    search: OmitArgPrefixes[SearchConfig] = field(default_factory=SearchOptions)


def parse(options: type[Options], arguments: list[str], command: str) -> Options:
    """A command's options, with the run's own search and scores as defaults.

    The arguments are parsed twice: for the name of the run, and again with the run's settings.

    Args:
        options: the command's dataclass of options.
        arguments: the arguments after the command.
        command: its name, for help and messages.

    Raises:
        InputError: there is no such run, or a search setting is invalid.
    """
    run = parse_options(options, arguments, command).run
    from transformer.run_dir import read_config

    config = read_config(run)
    own: dict[str, Any] = {"search": SearchOptions(**vars(config.search))}
    if "scores" in (field.name for field in dataclasses.fields(options)):
        own["scores"] = config.scores
    parsed = parse_options(partial(options, **own), arguments, command)
    with options_of("search"):
        return dataclasses.replace(parsed, search=SearchConfig(**vars(parsed.search)))


class Member(NamedTuple):
    """A run that translates, and the steps of the checkpoints to average."""

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
    from transformer.inference.loading import named_checkpoint
    from transformer.inference.translator import ensemble, load

    prepare(options)
    others = options.ensemble if isinstance(options, DecodingOptions) else ()
    named = [(options.run, options.checkpoint), *(named_checkpoint(other, options.checkpoint) for other in others)]
    with stage(f"loading {options.run}", partial(print, file=sys.stderr, flush=True)):
        loaded = [load(run, checkpoint, options.average, options.dtype) for run, checkpoint in named]
    translator = ensemble(loaded)
    members = [Member(run, [*one.checkpoints]) for (run, _), one in zip(named, loaded, strict=True)]
    if isinstance(options, DecodingOptions):  # so that forced decoding has the batch size of the options, too
        config = dataclasses.replace(translator.config, search=options.search)
        translator = dataclasses.replace(translator, config=config)
    return translator, members


def load_translator(options: RunOptions) -> "Translator":
    """Loads the translator of a run or of an ensemble, as `load_members` does."""
    return load_members(options)[0]


def prepare(options: RunOptions) -> Config:
    """Reads the run's config and reports the compute dtype on standard error.

    From then on, long compilations are reported there, too.
    """
    from transformer.run_dir import read_config

    config = read_config(options.run)
    resolved, reason = resolve_dtype(options.dtype or config.model.dtype)
    print(f"compute dtype: {resolved} ({reason})", file=sys.stderr)
    if (advice := unused_accelerator()) is not None:
        print(advice, file=sys.stderr)
    announce_compilations()
    return config

"""What every command that uses a trained run asks for: which checkpoint of it, and how it searches."""

import dataclasses
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from transformer.config import SearchConfig
from transformer.runtime import resolve_dtype, use_compilation_cache

if TYPE_CHECKING:
    from transformer.inference.translator import Translator


@dataclass(frozen=True)
class RunOptions:
    """Which run, and which of its checkpoints. What is not given is as the run's config says."""

    run: Positional[str]
    """The run directory."""
    checkpoint: Literal["last", "best"] | int = "last"
    """The last checkpoint, the one of lowest validation loss, or the one of a step."""
    average: int | None = None
    """Take the mean of this many checkpoints, this one and those before it."""


@dataclass(frozen=True)
class DecodingOptions(RunOptions):
    """Which run translates, and how."""

    beam_size: int | None = None
    """Hypotheses kept a sentence; 1 is greedy."""
    length_penalty: float | None = None
    """Exponent alpha of the length penalty; 0 is none."""


def load_translator(options: RunOptions) -> "Translator":
    """The run's translator, with the compilation cache in use if the run used it."""
    from transformer.checkpoint import read_config
    from transformer.inference.translator import load

    config = read_config(options.run)
    if config.compilation_cache:
        use_compilation_cache()
    dtype, reason = resolve_dtype(config.model.dtype)
    print(f"computing in {dtype} ({reason})", file=sys.stderr)
    return load(options.run, options.checkpoint, options.average)


def configure_search(search: SearchConfig, options: DecodingOptions) -> SearchConfig:
    """The run's search with what the options change."""
    given = {"beam_size": options.beam_size, "length_penalty": options.length_penalty}
    return dataclasses.replace(search, **{name: value for name, value in given.items() if value is not None})

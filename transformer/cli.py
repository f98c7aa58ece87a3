"""The command line: `transformer train | evaluate | translate | attention`. What is wrong with the input, the config or
the environment is said in one or two sentences, and the exit status is 2."""

import argparse
import dataclasses
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro
from tyro.conf import Positional

from transformer.config import Config, SearchConfig
from transformer.config_files import load_config
from transformer.errors import InputError
from transformer.runtime import keep_freed_memory, resolve_dtype, use_compilation_cache

if TYPE_CHECKING:
    from transformer.inference.translator import Translator


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 2 for unusable input, 130 after Ctrl-C, 141 if nobody reads on."""
    given = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train,
        "evaluate": evaluate,
        "translate": translate,
        "attention": attention,
    }
    if not given or given[0] in ("-h", "--help"):
        print(f"usage: transformer {{{','.join(commands)}}} ...   (`transformer COMMAND --help` for its options)")
        return 0 if given else 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a run
    try:
        if given[0] not in commands:
            raise InputError(f"There is no command {given[0]}; the commands are {', '.join(commands)}.")
        keep_freed_memory()
        commands[given[0]](given[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit does not try once more
        return 128 + signal.SIGPIPE
    except (InputError, OSError) as error:  # an OSError names the file and what the system said
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = " The same command goes on from the last checkpoint." if given[0] == "train" else ""
        print(f"Interrupted.{goes_on}", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


@dataclass(frozen=True)
class TrainingOptions(Config):
    """Train a Transformer and score it. The same command resumes a run."""

    config: str | None = None
    """Start from this file, such as configs/multi30k.py, instead of the defaults (the paper's base model); every other
    option changes one field of it."""


def train(arguments: list[str]) -> None:
    """Train, then score the test set."""
    config = parse_config(arguments)
    if config.compilation_cache:
        use_compilation_cache()
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


@dataclass(frozen=True)
class DecodingOptions:
    """Which run translates, and how. What is not given is as the run's config says."""

    run: Positional[str]
    """The run directory."""
    checkpoint: Literal["last", "best"] | int = "last"
    """The last checkpoint, the one of lowest validation loss, or the one of a step."""
    average: int | None = None
    """Take the mean of this many checkpoints, this one and those before it."""
    beam_size: int | None = None
    """Hypotheses kept a sentence; 1 is greedy."""
    length_penalty: float | None = None
    """Exponent alpha of the length penalty; 0 is none."""


@dataclass(frozen=True)
class EvaluationOptions(DecodingOptions):
    """Score a run: BLEU and chrF with sacreBLEU's signatures, exact match, loss and perplexity."""

    source: str | None = None
    """Source sentences, one a line, instead of the run's test set; needs --reference."""
    reference: str | None = None
    """Their reference translations, one a line."""
    json: bool = False
    """Print JSON instead of a table."""


def evaluate(arguments: list[str]) -> None:
    """Score a run on its test set, or on other files."""
    options = tyro.cli(EvaluationOptions, args=arguments, prog="transformer evaluate")
    if (options.source is None) != (options.reference is None):
        raise InputError("--source and --reference go together: line n of the one must translate line n of the other.")
    translator = load_translator(options)
    from transformer.data.corpus import read_files
    from transformer.experiment import read_test_set

    config = translator.config
    if options.source is not None and options.reference is not None:
        files = dataclasses.replace(config.data, tags=None)
        pairs, _ = read_files((options.source, options.reference), files)
    else:
        pairs = read_test_set(options.run, config.data)
    scores, _ = translator.evaluate(pairs, configure_search(config.search, options))
    if options.json:
        print(scores.to_json(), end="")
    else:
        print(scores.to_text())


def translate(arguments: list[str]) -> None:
    """Translate standard input to standard output: one line out for each line in."""
    options = tyro.cli(
        DecodingOptions,
        args=arguments,
        prog="transformer translate",
        description="Translate standard input to standard output, one line out for each line in.",
    )
    translator = load_translator(options)
    from transformer.data.text import decode_lines

    sentences = decode_lines(sys.stdin.buffer.read(), "standard input")
    for line in translator.translate(sentences, configure_search(translator.config.search, options)):
        sys.stdout.buffer.write(line.encode() + b"\n")


@dataclass(frozen=True)
class AttentionOptions(DecodingOptions):
    """Show where a run looks: for each piece of a sentence, the pieces that it gives the most weight."""

    source: str | None = None
    """The source sentence."""
    target: str | None = None
    """Its translation; the run's own unless given."""
    kind: Literal["encoder", "decoder", "cross"] = "cross"
    """The encoder's self-attention, the decoder's, or the decoder's attention to the encoder."""
    layer: int | None = None
    """Layer, counted from 0; the last one unless given."""
    head: int | None = None
    """Head, counted from 0; the mean of all unless given."""


def attention(arguments: list[str]) -> None:
    """Show where a run looks."""
    options = tyro.cli(AttentionOptions, args=arguments, prog="transformer attention")
    if options.source is None or not options.source.strip():
        raise InputError("A sentence is needed to look at: give it with --source.")
    run = load_translator(options)
    from transformer.analysis import attention as analysis

    search = configure_search(run.config.search, options)
    target = run.translate([options.source], search)[0] if options.target is None else options.target
    weights, queries, keys = analysis.attention(run, options.source, target, options.kind)
    for name, number, count in (("layer", options.layer, len(weights)), ("head", options.head, weights.shape[1])):
        if number is not None and not 0 <= number < count:
            raise InputError(f"--{name} {number} is not there: this run has {count}, counted from 0.")
    layer = weights[-1 if options.layer is None else options.layer]
    print(analysis.strongest(layer.mean(0) if options.head is None else layer[options.head], queries, keys))


def load_translator(options: DecodingOptions) -> "Translator":
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

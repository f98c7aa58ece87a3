"""The command line: `transformer train | evaluate | translate`. What is wrong with the input, the config or the
environment is said in one or two sentences, and the exit status is 2."""

import dataclasses
import signal
import sys
from collections.abc import Callable

import tyro
from tyro.conf import Positional

from transformer.config import Config, SearchConfig, load_config
from transformer.errors import InputError
from transformer.runtime import keep_freed_memory, use_compilation_cache


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 2 for unusable input, 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Callable[[list[str]], None]] = {"train": train, "evaluate": evaluate, "translate": translate}
    if not given or given[0] in ("-h", "--help"):
        print(f"usage: transformer {{{','.join(commands)}}} ...   (`transformer COMMAND --help` for its options)")
        return 0 if given else 2
    try:
        if given[0] not in commands:
            raise InputError(f"There is no command {given[0]}; the commands are {', '.join(commands)}.")
        keep_freed_memory()
        commands[given[0]](given[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. A training run goes on from its last checkpoint with the same command.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def train(arguments: list[str]) -> None:
    """Train, then score the test set."""
    config = parse_train(arguments)
    if config.compilation_cache:
        use_compilation_cache()
    from transformer.experiment import run

    run(config)


def parse_train(arguments: list[str]) -> Config:
    """The config that `transformer train` was asked for: a config file's or the defaults, with options on top."""
    base = Config()
    if "--config" in arguments:
        place = arguments.index("--config")
        if place + 1 == len(arguments):
            raise InputError("--config needs a file, for instance configs/multi30k.py.")
        base = load_config(arguments[place + 1])
        arguments = arguments[:place] + arguments[place + 2 :]
    return tyro.cli(
        Config,
        default=base,
        args=arguments,
        prog="train.py",
        description="Train a Transformer and score it. --config FILE starts from a file such as configs/multi30k.py "
        "instead of the defaults (the paper's base model); every option below changes one field of it. The same "
        "command resumes a run.",
    )


def evaluate(arguments: list[str]) -> None:
    """Score a run on its test set, or on other files."""
    tyro.cli(_evaluate, args=arguments, prog="transformer evaluate")


def _evaluate(
    run: Positional[str],
    source: str | None = None,
    reference: str | None = None,
    checkpoint: str = "last",
    average: int | None = None,
    beam_size: int | None = None,
    length_penalty: float | None = None,
    json: bool = False,
) -> None:
    """Score a run: BLEU and chrF with sacreBLEU's signatures, loss and perplexity.

    Args:
        run: The run directory.
        source: Source sentences, one a line, instead of the run's test set; needs --reference.
        reference: Their reference translations, one a line.
        checkpoint: `last`, `best` (lowest validation loss), or a step.
        average: Score the mean of this many checkpoints; by default as the run's config says.
        beam_size: Hypotheses kept a sentence; 1 is greedy. By default as the run's config says.
        length_penalty: Exponent of the length penalty. By default as the run's config says.
        json: Print JSON instead of a table.
    """
    if (source is None) != (reference is None):
        raise InputError("--source and --reference go together: the n-th lines of both are a pair.")
    from rich.console import Console

    from transformer.data.corpus import read_files, read_pairs
    from transformer.experiment import evaluate

    translator = _load(run, checkpoint, average)
    data = translator.config.data
    if source is not None and reference is not None:
        pairs, _ = read_files((source, reference), data)
    else:
        pairs, _ = read_pairs(data, "test")
    scores, _ = evaluate(translator, pairs, _search(translator.config.search, beam_size, length_penalty))
    if json:
        print(scores.to_json(), end="")
    else:
        Console().print(scores.to_table())


def translate(arguments: list[str]) -> None:
    """Translate standard input."""
    tyro.cli(_translate, args=arguments, prog="transformer translate")


def _translate(
    run: Positional[str],
    checkpoint: str = "last",
    average: int | None = None,
    beam_size: int | None = None,
    length_penalty: float | None = None,
) -> None:
    """Translate standard input to standard output: one line out for each line in.

    Args:
        run: The run directory.
        checkpoint: `last`, `best` (lowest validation loss), or a step.
        average: Use the mean of this many checkpoints; by default as the run's config says.
        beam_size: Hypotheses kept a sentence; 1 is greedy. By default as the run's config says.
        length_penalty: Exponent of the length penalty. By default as the run's config says.
    """
    from transformer.data.corpus import decode_lines

    translator = _load(run, checkpoint, average)
    sentences = decode_lines(sys.stdin.buffer.read(), "standard input")
    search = _search(translator.config.search, beam_size, length_penalty)
    lines = translator.translate(sentences, search)
    sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode())
    sys.stdout.flush()


def _load(run: str, checkpoint: str, average: int | None) -> "Translator":
    """The translator of a run; the compilation cache is used if the run used it."""
    from transformer.checkpoint import read_config

    config = read_config(run)
    if config.compilation_cache:
        use_compilation_cache()
    if checkpoint not in ("last", "best") and not checkpoint.isdecimal():
        raise InputError(f"--checkpoint must be last, best or a step, but is {checkpoint}.")
    from transformer.inference.translator import load

    which = int(checkpoint) if checkpoint.isdecimal() else checkpoint
    return load(run, which, config.average if average is None else average)


def _search(search: SearchConfig, beam_size: int | None, length_penalty: float | None) -> SearchConfig:
    given = {"beam_size": beam_size, "length_penalty": length_penalty}
    return dataclasses.replace(search, **{name: value for name, value in given.items() if value is not None})

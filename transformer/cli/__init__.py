"""The command line of `transformer`, with one module per command.

Unusable input, configuration or environment is reported in one or two sentences, and the exit status is 2.
"""

import io
import os
import re
import signal
import sys
import traceback
from importlib import import_module
from itertools import takewhile
from keyword import iskeyword

from transformer.cli import process
from transformer.errors import InputError, did_you_mean
from transformer.interruption import Interrupted
from transformer.joining import join, joined, leave
from transformer.runtime import keep_freed_memory, require_bootstrap_seed, resolve_dtype, simulate_devices

COMMANDS = {
    "train": "train a model on a parallel corpus, then score it on the test set",
    "status": "tell how far a run is: step, speed, last checkpoint, time left",
    "evaluate": "score a run: BLEU, chrF, TER, exact match, loss and perplexity",
    "tune": "find the beam size and length penalty with the highest validation BLEU",
    "translate": "translate standard input to standard output, line by line",
    "score": "print the log-probability of given translations",
    "compare": "test whether one run translates better than another",
    "import": "make a run of another program's model",
    "plan": "say what a training run will cost: memory, FLOPs, time",
    "export": "write a run for other programs",
    "attention": "show the attention weights of a sentence pair as text, page or picture",
    "heads": "measure what each attention head does",
    "figures": "plot position encodings, learning rates and learning curves",
    "complexity": "measure what a layer costs (Table 1 of the paper)",
}
"""What each command does, by its name."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    The status is 0 on success, 1 if `train --verify-resume` finds a difference or another process of the job has ended,
    2 for unusable input, and 141 if the reader of the output has gone. A signal gives 128 plus its number: 130 after
    Ctrl-C, and for `train` also 143 (SIGTERM), 138 (SIGUSR1) and 129 (SIGHUP).

    Args:
        arguments: the command and its options. By default the arguments of the process.
    """
    process.open_standard_streams()
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a run
    try:
        status = _run(given)
    except SystemExit as ended:  # by tyro, after --help or a wrong option
        if not joined():
            raise
        status = ended.code if isinstance(ended.code, int) else 2
    except Exception:
        if not joined():
            raise
        traceback.print_exc()
        status = 1
    if status:
        leave(status)
    return status


def _run(given: list[str]) -> int:
    """Runs a command, reports errors, and returns the exit status."""
    try:
        process.require_utf8(given)
        if given[0] not in COMMANDS:
            known = did_you_mean(given[0], [*COMMANDS]) or f" The commands are {', '.join(COMMANDS)}."
            raise InputError(f"Unknown command {given[0]}.{known}")
        process.require_streams(given[0])
        require_bootstrap_seed()  # before anything is translated
        given = [process.expand_home(argument) for argument in given]
        refuse_repeated_options(given[1:])
        given, devices = process.take_devices(given)
        given, processes = process.take_processes(given)
        keep_freed_memory()
        if devices is not None:
            simulate_devices(devices)
        if given[0] in process.JOINING and not {"-h", "--help"} & {*given}:
            join(*processes, preemption=given[0] == "train")
        if joined():
            process.divert_native_output()
        module = f"{given[0]}_" if iskeyword(given[0]) else given[0]
        command = import_module(f"transformer.cli.{module}").main
        if joined() and given[0] != "train":  # which has settings to make before JAX starts its backend
            from transformer.processes import first_prints, require_same

            resolve_dtype("auto")  # which explains why there is no device
            require_same("The command is", given)
            command = first_prints()(command)
        command(given[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python writes the rest when it exits
        return 128 + signal.SIGPIPE
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {process.system_error(error)}", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:  # from a file name, if Python's file system encoding is not UTF-8
        text = ascii(error.object[:100])
        print(f"error: Cannot encode {text} as {error.encoding}. Set PYTHONUTF8=1.", file=sys.stderr)
        return 2
    except (RuntimeError, ValueError) as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            print(f"error: {process.out_of_memory(given[0], error)}", file=sys.stderr)
            return 2
        if not (joined() and process.is_from_runtime(error)):
            raise
        print(f"error: {process.others_gone(error)}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 128 + error.signal
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def usage() -> str:
    """The commands, and how to begin."""
    return "\n".join(
        (
            "usage: transformer COMMAND ...",
            "",
            "The encoder-decoder Transformer on JAX: train it, translate with it, score it, look inside it.",
            "",
            *(f"  {command:<11} {purpose}" for command, purpose in COMMANDS.items()),
            "",
            "To begin, train the quickstart (about four minutes on two CPU cores, no network) and translate with it:",
            "",
            "  transformer train",
            '  echo "The old dog sleeps." | transformer translate runs/quickstart',
            "",
            "`transformer COMMAND --help` describes a command and its options.",
            process.EVERY_COMMAND,
        )
    )


def refuse_repeated_options(arguments: list[str]) -> None:
    """Refuses an option that is given twice.

    tyro would silently drop its first value. An option may be spelt with hyphens or underscores, with its value after a
    space or `=`, and a flag with or without `no-`. A separate value never begins with two hyphens and a letter. After
    `--` there are no options.

    Args:
        arguments: the arguments after the command.

    Raises:
        InputError: an option is given twice.
    """
    found: dict[str, str] = {}
    for argument in takewhile(lambda argument: argument != "--", arguments):
        given, _, _ = argument.partition("=")
        if re.match("--[a-zA-Z]", given) is None:
            continue
        option = re.sub(r"(^--|\.)no-", r"\1", given.replace("_", "-"))
        if option in found:
            twice = (
                f"{given} is given twice"
                if given == found[option]
                else f"{found[option]} and {given} are the same option"
            )
            raise InputError(f"{twice}. Give it once, followed by all of its values.")
        found[option] = given

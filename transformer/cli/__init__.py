"""The command line, a file for each command. What is wrong with the input, the config or the environment is said in one
or two sentences, and the exit status is 2."""

import io
import os
import re
import signal
import sys
from importlib import import_module
from itertools import takewhile

from transformer.cli import process
from transformer.errors import InputError
from transformer.interruption import Interrupted
from transformer.runtime import keep_freed_memory

COMMANDS = (
    "train",
    "evaluate",
    "tune",
    "translate",
    "score",
    "compare",
    "export",
    "attention",
    "heads",
    "figures",
    "complexity",
)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    It is 0, 2 for unusable input, 141 if nobody reads the output any more, and 128 + the number of a signal: 130 after
    Ctrl-C, and for `train` also 143 (SIGTERM), 138 (SIGUSR1) and 129 (SIGHUP).
    """
    process.open_standard_streams()
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(f"usage: transformer {{{','.join(COMMANDS)}}} ...   (`transformer COMMAND --help` for its options)")
        return 0 if given else 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a run
    try:
        process.require_utf8(given)
        if given[0] not in COMMANDS:
            raise InputError(f"There is no command {given[0]}; the commands are {', '.join(COMMANDS)}.")
        process.require_streams(given[0])
        process.require_environment()
        given = [process.expand_home(argument) for argument in given]
        refuse_repeated_options(given[1:])
        keep_freed_memory()
        import_module(f"transformer.cli.{given[0]}").main(given[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit does not try once more
        return 128 + signal.SIGPIPE
    except (InputError, OSError) as error:  # an OSError names the file and what the system said
        print(f"error: {error}", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:  # of a file name, where Python's encoding is not UTF-8
        text = ascii(error.object[:100])
        print(f"error: {text} cannot be encoded as {error.encoding} here: set PYTHONUTF8=1.", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"error: {process.out_of_memory(given[0], error)}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 128 + error.signal
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def refuse_repeated_options(arguments: list[str]) -> None:
    """Refuses an option that is given twice: tyro would drop the first value, of a list with all that it names.

    An option may be spelt with hyphens or underscores, with its value after a space or `=`, and a flag with or without
    `no-`. A separate value never begins with two hyphens and a letter, and after `--` there are no options.

    Raises: InputError if an option is given twice.
    """
    found: dict[str, str] = {}
    for argument in takewhile(lambda argument: argument != "--", arguments):
        given, _, _ = argument.partition("=")
        if re.match("--[a-zA-Z]", given) is None:
            continue
        option = re.sub(r"(^--|\.)no-", r"\1", given.replace("_", "-"))
        if option in found:
            twice = (
                f"{given} is given twice" if given == found[option] else f"{found[option]} and {given} are one option"
            )
            raise InputError(f"{twice}. Give it once, followed by all of its values.")
        found[option] = given

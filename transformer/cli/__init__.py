"""The command line, a file for each command. What is wrong with the input, the config or the environment is said in one
or two sentences, and the exit status is 2."""

import io
import os
import signal
import sys
from importlib import import_module

from transformer.errors import InputError
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
    """Runs a command and returns its exit status: 0, 2 for unusable input, 130 after Ctrl-C, 141 if nobody reads on."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(f"usage: transformer {{{','.join(COMMANDS)}}} ...   (`transformer COMMAND --help` for its options)")
        return 0 if given else 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a run
    try:
        if given[0] not in COMMANDS:
            raise InputError(f"There is no command {given[0]}; the commands are {', '.join(COMMANDS)}.")
        keep_freed_memory()
        import_module(f"transformer.cli.{given[0]}").main(given[1:])
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

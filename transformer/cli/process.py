"""What a process is started with: standard streams, arguments and environment, put in order before a command runs."""

import os
import sys
from collections.abc import Sequence

from transformer.errors import InputError, require


def open_standard_streams() -> None:
    """Opens the null device where a standard stream was closed: another file would get its number otherwise."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)


def require_streams(command: str) -> None:
    """Raises InputError if standard output was closed, or the standard input of a command that reads it."""
    require(sys.stdout is not None, "Standard output is closed: open it, or send it to /dev/null.")
    require(command != "translate" or sys.stdin is not None, "Standard input is closed: there is nothing to translate.")


def require_utf8(arguments: Sequence[str]) -> None:
    """Raises InputError if an argument is not text: Python keeps bytes that it cannot decode as lone surrogates."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            encoding = sys.getfilesystemencoding()
            reason = (
                "is not UTF-8" if encoding == "utf-8" else f"is not {encoding}, which Python takes arguments for here"
            )
            raise InputError(
                f"The argument {argument!a} {reason}. Use UTF-8, in a UTF-8 locale or with PYTHONUTF8=1."
            ) from error


def require_environment() -> None:
    """Raises InputError if sacreBLEU would stumble over its seed, after all that a command does before it scores."""
    seed = os.environ.get("SACREBLEU_SEED", "none")
    require(
        seed.lower() == "none" or seed.strip().isdecimal(),
        f"SACREBLEU_SEED must be an integer that is not negative, or none, but is {seed!r}.",
    )


def expand_home(argument: str) -> str:
    """`--option=~/path` with the home directory in it: shells put it into words that begin with `~` only."""
    option, _, value = argument.partition("=")
    if option.startswith("--") and (value == "~" or value.startswith("~/")):
        return f"{option}={os.path.expanduser(value)}"
    return argument


def out_of_memory(command: str, error: RuntimeError) -> str:
    """The message for a device that has run out of memory.

    Args:
        command: The command that was running. It decides which options the message recommends.
        error: The exception of JAX.
    """
    tokens = "--batch-tokens (65,536 by default on an accelerator)"
    advice = {
        "train": "Lower --training.batch-tokens, or raise --training.accumulation-steps, which does not change updates",
        "evaluate": f"Lower {tokens} or --beam-size",
        "translate": f"Lower {tokens} or --beam-size",
        "tune": f"Lower {tokens} or --beams",
        "score": f"Lower {tokens}",
    }.get(command)
    lower = f"{advice}, or stop" if advice else "Stop"
    said = str(error).splitlines()[0].rpartition("RESOURCE_EXHAUSTED: ")[2].rstrip(".")[:200]
    return f"The device is out of memory ({said}). {lower} other processes on the device (see nvidia-smi)."

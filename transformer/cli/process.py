"""What a process is started with, and how errors name options.

Standard streams and arguments are checked before a command runs.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformer.errors import InputError, require

EVERY_COMMAND = "Every command also takes --devices N, which simulates N devices on the CPU."
"""The part of every command's `--help` that names the option of `take_devices`."""
JOINING = ("train", "evaluate", "tune", "translate", "score")
"""The commands that several processes can run together."""


def common_options(command: str) -> str:
    """The part of a command's `--help` that names the options of `take_devices` and `take_processes`."""
    if command not in JOINING:
        return EVERY_COMMAND
    return (
        f"{EVERY_COMMAND} Several processes work together with --coordinator HOST:PORT --processes N --process I, in "
        "which process 0 listens at HOST:PORT. On Slurm, Open MPI, Cloud TPU and Kubernetes they find each other."
    )


def open_standard_streams() -> None:
    """Opens the null device for each closed standard stream.

    Otherwise the next file that is opened would get the stream's number.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)


def divert_native_output() -> None:
    """Sends what native code prints to standard error. Gloo prints to standard output that it is connected."""
    sys.stdout.flush()
    kept = os.dup(sys.stdout.fileno())
    os.dup2(2, sys.stdout.fileno())
    sys.stdout = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def require_streams(command: str) -> None:
    """Raises InputError if a standard stream that the command needs is closed."""
    require(sys.stdout is not None, "Standard output is closed. Open it, or redirect it to /dev/null.")
    require(
        command != "translate" or sys.stdin is not None,
        "Standard input is closed, so there is nothing to translate. Redirect it with < FILE.",
    )


def require_utf8(arguments: Sequence[str]) -> None:
    """Raises InputError if an argument is not valid text.

    Python keeps bytes that it cannot decode as unpaired surrogates.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            encoding = sys.getfilesystemencoding()
            reason = "" if encoding == "utf-8" else ", the encoding of arguments in this locale"
            raise InputError(
                f"The argument {argument!a} is not {encoding.upper()}{reason}. Use UTF-8, in a UTF-8 locale or with "
                "PYTHONUTF8=1."
            ) from error


def expand_home(argument: str) -> str:
    """Expands the home directory in `--option=~/path`.

    Shells expand `~` only at the start of a word.
    """
    option, _, value = argument.partition("=")
    if option.startswith("--") and (value == "~" or value.startswith("~/")):
        return f"{option}={os.path.expanduser(value)}"
    return argument


@contextmanager
def options_of(part: str, **renamed: str) -> Iterator[None]:
    """Names options in errors as they are typed.

    For commands whose options leave out the name of the config's part: `search.beam_size` becomes `--beam-size`.

    Args:
        part: the part of the config, such as `search`.
        renamed: fields whose option has another name, with that name.
    """

    def option(found: re.Match[str]) -> str:
        field = found[1].replace("-", "_")
        return f"--{renamed.get(field, field).replace('_', '-')}"

    try:
        yield
    except InputError as error:
        raise InputError(re.sub(rf"(?:--)?\b{part}\.([a-z][\w-]*)", option, str(error))) from error


def system_error(error: OSError) -> str:
    """The message for an error of the operating system, with its file if it names one."""
    return f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)


def out_of_memory(command: str, error: Exception) -> str:
    """The message for a device that has run out of memory.

    Args:
        command: The command that was running. It decides which options the message recommends.
        error: The exception of JAX.
    """
    tokens = "--batch-tokens (65,536 by default on an accelerator)"
    advice = {
        "train": "Lower --training.batch-tokens, or raise --training.accumulation-steps or use "
        "--model.rematerialization layer, which do not change the updates",
        "evaluate": f"Lower {tokens} or --beam-size",
        "translate": f"Lower {tokens} or --beam-size",
        "tune": f"Lower {tokens} or --beams",
        "score": f"Lower {tokens}",
    }.get(command)
    lower = f"{advice}, or stop" if advice else "Stop"
    said = str(error).splitlines()[0].rpartition("RESOURCE_EXHAUSTED: ")[2].rstrip(".")[:200]
    return f"The device is out of memory ({said}). {lower} other processes on the device (see nvidia-smi)."


def is_from_runtime(error: Exception) -> bool:
    """Whether JAX's runtime has raised an exception: its message begins with a status, such as `UNKNOWN: `."""
    return re.match("[A-Z_]+: ", str(error)) is not None


def others_gone(error: Exception) -> str:
    """The message for an exception of JAX in one of several processes, most likely because another one has ended."""
    said = str(error).splitlines()[0].rstrip(".")[:200]
    return (
        f"JAX failed in this process ({said}). Another process of the job has probably ended; see its output. The same "
        "command resumes a run from its last checkpoint."
    )


def take_devices(arguments: list[str]) -> tuple[list[str], int | None]:
    """Takes the option `--devices` out of the arguments of any command.

    It is not parsed with the others, because it must take effect before they import jax.

    Args:
        arguments: the command and its options.

    Returns:
        The other arguments, and the number of devices to simulate, or None.

    Raises:
        InputError: the value is missing or is no such number.
    """
    others, value = _take(arguments, "--devices")
    return others, None if value is None else _number("--devices", value, 1, 999)


def take_processes(arguments: list[str]) -> tuple[list[str], tuple[str | None, int | None, int | None]]:
    """Takes `--coordinator`, `--processes` and `--process` out of the arguments, which also precede jax.

    Args:
        arguments: the command and its options.

    Returns:
        The other arguments, and the values of these three, each None if it is not given.

    Raises:
        InputError: a value is missing or is no such number, or processes of this command cannot work together.
    """
    others, coordinator = _take(arguments, "--coordinator")
    others, processes = _take(others, "--processes")
    others, process = _take(others, "--process")
    require(
        others == arguments or arguments[0] in JOINING,
        f"transformer {arguments[0]} works in one process. Leave out --coordinator, --processes and --process.",
    )
    return others, (
        coordinator,
        None if processes is None else _number("--processes", processes, 1, 99_999),
        None if process is None else _number("--process", process, 0, 99_998),
    )


def _take(arguments: list[str], name: str) -> tuple[list[str], str | None]:
    """Takes an option and its value out of the arguments. The value is empty if it is missing."""
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        option, equals, value = argument.partition("=")
        if option == name:
            end = index + (1 if equals else 2)
            return [*arguments[:index], *arguments[end:]], value if equals else "".join(arguments[index + 1 : end])
    return arguments, None


def _number(option: str, value: str, least: int, most: int) -> int:
    """The value of an option as a number within bounds."""
    found = int(value) if re.fullmatch("[0-9]{1,5}", value) else -1
    require(
        least <= found <= most,
        f"{option} needs a number from {least} to {most}, but has {value[:100] or 'no value'}.",
    )
    return found

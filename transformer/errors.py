"""The exceptions that a person is meant to read."""

import difflib
from collections.abc import Sequence
from typing import Any


class InputError(ValueError):
    """The input, the configuration or the environment is not usable.

    Its message is one or two plain sentences: what was required, what was given, what to do about it. The command
    line prints it without a traceback and exits with status 2; in a notebook it is an ordinary `ValueError`.
    """


class DivergenceError(InputError):
    """Training has come to a loss or gradient that is not finite: the run ends."""


def require(condition: bool, message: str) -> None:
    """Raises InputError with the message unless the condition holds."""
    if not condition:
        raise InputError(message)


def require_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises InputError unless the value is one of the choices; the message names the one that it resembles."""
    require(
        value in choices, f"{name} must be one of {', '.join(choices)}, but is {value!r}.{did_you_mean(value, choices)}"
    )


def did_you_mean(value: Any, choices: Sequence[str]) -> str:
    """The choice that a mistyped one resembles, as a question after a space; empty if there is none."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    return f" Did you mean {close[0]}?" if close else ""

"""Exceptions whose messages are written for users."""

import difflib
from collections.abc import Sequence
from typing import Any


class InputError(ValueError):
    """The input, the configuration or the environment is not usable.

    The message is one or two plain sentences: what failed, what was found and what to do about it. The command line
    prints it without a traceback and exits with status 2. In a notebook it is an ordinary `ValueError`.
    """


class DivergenceError(InputError):
    """A loss or gradient was not finite, so the training run ends."""


def require(condition: bool, message: str) -> None:
    """Raises an InputError with this message unless the condition holds."""
    if not condition:
        raise InputError(message)


def require_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises an InputError unless `value` is one of the choices.

    The message suggests the most similar choice.
    """
    require(
        value in choices, f"{name} must be one of {', '.join(choices)}, but is {value!r}.{did_you_mean(value, choices)}"
    )


def did_you_mean(value: Any, choices: Sequence[str]) -> str:
    """A suggestion such as " Did you mean adam?", empty if nothing is similar."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(value).lower(), by_lower_case, n=1)
    return f" Did you mean {by_lower_case[close[0]]}?" if close else ""

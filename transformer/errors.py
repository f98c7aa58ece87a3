"""The exceptions that a person is meant to read."""


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

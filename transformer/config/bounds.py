"""Types, choices and bounds of config fields, given as annotations."""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from transformer.errors import InputError, did_you_mean


class Bound(NamedTuple):
    """Condition on a value besides its type."""

    words: str
    """End of a sentence that begins with the field's name, such as "must be positive"."""
    holds: Callable[[Any], bool]
    """Function that tells whether a value satisfies the condition."""


def at_least(minimum: int) -> Bound:
    """Makes the bound value >= minimum."""
    return Bound(f"must be at least {minimum}", lambda value: value >= minimum)


def at_most(maximum: int) -> Bound:
    """Makes the bound value <= maximum."""
    return Bound(f"must be at most {maximum:,}", lambda value: value <= maximum)


NOT_NEGATIVE = Bound("must not be negative", lambda value: value >= 0)

Count = Annotated[int, at_least(1), at_most(2**31 - 1)]  # XLA counts in 32 bits
Natural = Annotated[int, NOT_NEGATIVE, at_most(2**31 - 1)]
Seed = Annotated[int, NOT_NEGATIVE, at_most(2**63 - 1)]
Size = Annotated[int, at_least(1), at_most(2**24)]  # no size of a model reaches it, and a wrong one fits no memory
NotNegative = Annotated[float, NOT_NEGATIVE]
Positive = Annotated[float, Bound("must be positive", lambda value: value > 0)]
Share = Annotated[float, Bound("must be in [0, 1)", lambda value: 0 <= value < 1)]


def check(config: Any, name: str = "") -> None:
    """Checks each field of a dataclass against its annotation.

    Every part of a config calls it in `__post_init__`.

    Args:
        config: Instance of the dataclass.
        name: Name of this part of the config, such as `model`; empty for the config itself.

    Raises:
        InputError: A field has another type, is none of its choices, or is out of bounds.
    """
    for field in dataclasses.fields(config):
        where, value = f"{name}.{field.name}".removeprefix("."), getattr(config, field.name)
        fitting = [hint for hint in _alternatives(field.type) if fits(value, hint)]
        if not fitting:
            raise InputError(
                f"{where} must be {_expected(field.type)}, but is {value!r:.200}.{_closest(value, field.type)}"
            )
        for bound in getattr(fitting[0], "__metadata__", ()):
            if not bound.holds(value):
                raise InputError(f"{where} {bound.words}, but is {value!s:.200}.")


def fits(value: Any, hint: Any) -> bool:
    """Tells whether a value has the type of an annotation.

    An int also fits a float. True and False fit bool only.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fits(value, parts[0])
    if origin is Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = (parts[0],) * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(items) and all(map(fits, value, items))
    if parts:
        return any(fits(value, part) for part in _alternatives(hint))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union; any other annotation is its only member."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _expected(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    if choices := _choices_of_items(hint):
        return f"a tuple of {', '.join(choices)}"
    return f"of type {' or '.join(map(_type_name, _alternatives(hint)))}"


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    return "None" if hint is types.NoneType else hint.__name__ if isinstance(hint, type) else str(hint)


def _closest(value: Any, hint: Any) -> str:
    if (choices := _choices_of_items(hint)) and isinstance(value, tuple):
        return did_you_mean(next((item for item in value if item not in choices), ""), choices)
    return did_you_mean(value, typing.get_args(hint) if typing.get_origin(hint) is Literal else ())


def _choices_of_items(hint: Any) -> tuple[str, ...]:
    """Returns the choices of each item if the annotation is a tuple of choices, and nothing otherwise."""
    item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
    return typing.get_args(item) if typing.get_origin(item) is Literal else ()

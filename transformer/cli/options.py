"""Options of the commands, parsed by tyro, and the text of their `--help`."""

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
import typing
from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import tyro

from transformer.cli.process import common_options

T = TypeVar("T")


def parse(options: Callable[..., T], arguments: Sequence[str], command: str, **settings: Any) -> T:
    """Parses the options of a command.

    `--help` shows the first line of the options' docstring above the options and the rest below them, where a terminal
    shows it last. The options that are not parsed here follow.

    Args:
        options: a dataclass, perhaps with defaults bound by `functools.partial`.
        arguments: the arguments after the command.
        command: its name.
        settings: further arguments of `tyro.cli`.
    """
    described = options.func if isinstance(options, partial) else options
    describe_fields(described)
    summary, _, details = (inspect.getdoc(described) or "").partition("\n\n")
    try:
        return tyro.cli(options, args=arguments, prog=f"transformer {command}", description=summary, **settings)
    except SystemExit as exit:
        if exit.code == 0:  # after --help
            width = shutil.get_terminal_size().columns
            print(f"\n{wrapped(details, width)}\n\n{wrapped(common_options(command), width)}")
        raise


def describe_fields(options: Any) -> None:
    """Gives the fields of a dataclass their docstrings as help, without line breaks.

    tyro 1.0.17 reads the docstrings itself, but keeps their line breaks. Nested dataclasses
    are described, too.
    """
    for owner in options.__mro__:
        if not dataclasses.is_dataclass(owner):
            continue
        texts = docstrings(owner)
        for field in dataclasses.fields(owner):
            if field.name in texts:
                field.metadata = MappingProxyType({"help": texts[field.name]})
            hint = typing.get_args(field.type)[0] if typing.get_origin(field.type) is Annotated else field.type
            if dataclasses.is_dataclass(hint):
                describe_fields(hint)


def docstrings(options: Any) -> dict[str, str]:
    """The docstrings of the fields that a dataclass itself defines, on one line each."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(options))).body
    except OSError:  # a package without its source has no help, neither here nor in tyro
        return {}
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for parts in itertools.pairwise(definition.body):
        match parts:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def wrapped(text: str, width: int) -> str:
    """Wraps each paragraph to a width, except indented ones, which are examples."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        paragraph
        if paragraph.startswith(" ")
        else textwrap.fill(" ".join(paragraph.split()), width, break_on_hyphens=False)
        for paragraph in paragraphs
    )

"""Writing files atomically."""

import os
from collections.abc import Iterable
from pathlib import Path

from transformer.errors import InputError

PART = ".part"
"""Suffix of a file's name while the file is being written."""


def write_whole(file: Path, data: bytes) -> None:
    """Replaces a file atomically.

    At any moment, a reader sees either the old content or the new.
    """
    temporary = file.with_name(file.name + PART)
    temporary.write_bytes(data)
    os.replace(temporary, file)


def check_writable(file: str | Path) -> None:
    """Checks that a file can be written, so that long work is not lost at its end.

    Raises: InputError if `file` is a directory, or if its directory does not exist or is not writable.
    """
    path = Path(file)
    if path.is_dir():
        raise InputError(f"Cannot write {str(file)!r}: it is a directory. Give the name of a file.")
    if not path.parent.is_dir():
        raise InputError(f"Cannot write {file}: {path.parent} is not a directory. Give a file in one that exists.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"Cannot write {file}: no permission to write to {path.parent.absolute()}.")


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Writes lines of text atomically and ends each with a line feed."""
    write_whole(file, "".join(f"{line}\n" for line in lines).encode())

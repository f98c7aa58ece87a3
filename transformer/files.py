"""Writing files whole."""

import os
from collections.abc import Iterable
from pathlib import Path

from transformer.errors import InputError

PART = ".part"
"""What the name of a file ends in while it is being written."""


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file so that whoever reads it, at whatever moment, sees the old or the new one, whole."""
    temporary = file.with_name(file.name + PART)
    temporary.write_bytes(data)
    os.replace(temporary, file)


def check_writable(file: str | Path) -> None:
    """Raises InputError where no file of this name can be written; asked before long work, not behind it."""
    path = Path(file)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(
            f"{file} cannot be written: it must not be a directory, and stand in a directory that there is and may be "
            "written to."
        )


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Writes lines of text, each with its end, as `write_whole` does."""
    write_whole(file, "".join(f"{line}\n" for line in lines).encode())

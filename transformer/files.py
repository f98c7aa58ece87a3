"""Writing files whole."""

import os
from collections.abc import Iterable
from pathlib import Path

PART = ".part"
"""What the name of a file ends in while it is being written."""


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file so that whoever reads it, at whatever moment, sees the old or the new one, whole."""
    temporary = file.with_name(file.name + PART)
    temporary.write_bytes(data)
    os.replace(temporary, file)


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Writes lines of text, each with its end, as `write_whole` does."""
    write_whole(file, "".join(f"{line}\n" for line in lines).encode())

"""Reading small files, and writing files atomically."""

import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformer.errors import InputError

PART = ".part"
"""Suffix of a file's name while the file is being written."""
LARGEST_JSON = 2**26  # bytes; the vocabulary of the largest models has 4 MB


def write_whole(file: Path, data: bytes) -> None:
    """Replaces a file atomically.

    At any moment, a reader sees either the old content or the new.
    """
    temporary = file.with_name(file.name + PART)
    temporary.unlink(missing_ok=True)  # a link from others would be followed, and a pipe waited for
    temporary.write_bytes(data)
    os.replace(temporary, file)


def read_regular(file: str | Path, largest: int | None = None) -> bytes:
    """Reads a file that is neither a device nor a pipe, from which reading might never end.

    Args:
        file: The file.
        largest: Its maximum size in bytes; None sets no limit.

    Raises: OSError if the file is missing, unreadable, too large, or not a regular file.
    """
    path = Path(file)
    try:
        size = path.stat().st_size
    except ValueError as error:
        raise OSError(errno.EINVAL, f"Not the name of a file ({error})", str(file)) from error
    if not path.is_file():
        number = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(number, os.strerror(number) if path.is_dir() else "Not a regular file", str(file))
    if largest is not None and size > largest:
        raise OSError(errno.EFBIG, f"Larger than {largest / 2**20:,.0f} MB, which no file of its kind is", str(file))
    return path.read_bytes()


def read_log(file: Path) -> bytes:
    """Reads a file that a run writes to as it goes on, and that may be missing: then it is empty.

    Raises: InputError if the file is unreadable, or not a regular file.
    """
    try:
        return read_regular(file)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}. Restore it, or remove it to go on without.") from error


def read_json(file: str | Path) -> Any:
    """Reads a JSON file of at most 64 MB. It may begin with a byte-order mark, which an editor may have added.

    Raises: InputError if the file is missing, unreadable, too large, not a regular file, or not JSON.
    """
    try:
        return json.loads(read_regular(file, LARGEST_JSON).decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # also too many digits, and too deep nesting
        raise InputError(f"{file} is not valid JSON ({error}).") from error


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


def check_new(folder: str | Path) -> None:
    """Checks that a folder can be created, so that long work is not lost at its end.

    Raises: InputError if there is something of this name already, or the directory that it belongs to does not exist or
        is not writable.
    """
    path = Path(folder)
    if path.exists():
        raise InputError(f"Cannot create {folder}: it already exists. Give the name of a new folder.")
    check_writable(path)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Creates a folder whose files appear at once, when the body has ended without an exception.

    The body writes to the folder that it is given, which is then renamed.

    Args:
        folder: The folder, which does not exist or is empty. The directory that it belongs to exists.
    """
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", suffix=PART, dir=folder.parent) as parent:
        inside = Path(parent) / folder.name
        inside.mkdir()
        yield inside
        os.replace(inside, folder)


def as_json(values: Any) -> bytes:
    """The content of a file with an indented JSON value."""
    return f"{json.dumps(values, indent=2, ensure_ascii=False)}\n".encode()


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Writes lines of text atomically and ends each with a line feed."""
    write_whole(file, "".join(f"{line}\n" for line in lines).encode())

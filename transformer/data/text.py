"""Text files, compressed or not, as lines: strictly UTF-8, and only `\\n` ends a line."""

import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from transformer.errors import InputError

PACKAGE = "package:"  # before the name of a file in this folder: a path into site-packages would not outlive it


def read_lines(path: str) -> list[str]:
    """The lines of a text file, compressed or not; only `\\n` ends a line.

    Raises: InputError if the file is missing, damaged, not UTF-8, or has a `\\r` inside a line.
    """
    return decode_lines(read_bytes(path), path)


def decode_lines(data: bytes, name: str) -> list[str]:
    """The lines of text; only `\\n` ends a line: U+2028, U+0085, vertical tab and form feed stay inside it.

    A byte-order mark at the start is left out, and so is the `\\r` of a Windows line end (`\\r\\n`).

    Args:
        data: UTF-8.
        name: What errors call it.

    Raises: InputError, naming the line, if data are not UTF-8 or have a `\\r` inside a line.
    """
    # Elsewhere a lone \r often counts as a line end: the same file would have other line numbers there, and its
    # sentences other partners.
    data = data.replace(b"\r\n", b"\n")
    if (position := data.find(b"\r")) >= 0:
        raise InputError(
            f"{name}, line {_line_number(data, position)} has a carriage return (\\r) inside it: replace it by a space."
        )
    return split_lines(data, name)


def cut(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Pieces of a text that fit: cut in half, and in half again, until they do.

    A cut is made at the sentence end nearest to the middle, if the middle half of the text has one, else between two
    words there, else in the middle.

    Args:
        text: One line.
        fits: Whether a piece is short enough; a single character is taken to be.
    """
    if len(text) < 2 or fits(text):
        return [text] if text.strip() else []
    middle = len(text) // 2
    for gap in (r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])", r"\s+"):
        found = [(abs(match.start() + match.end() - len(text)), match.end()) for match in re.finditer(gap, text)]
        distance, end = min(found, default=(len(text), middle))
        if distance <= len(text) // 2:
            middle = min(max(end, 1), len(text) - 1)
            break
    return [*cut(text[:middle].strip(), fits), *cut(text[middle:].strip(), fits)]


def check_text(text: object, name: str) -> None:
    """Raises InputError unless a value is a string that UTF-8 can write; `name` is what the message calls it."""
    if not isinstance(text, str):
        raise InputError(f"{name} must be a string, but is of type {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        raise InputError(f"{name} has an unpaired surrogate ({surrogate}), so it is not valid Unicode text.") from error


def split_lines(data: bytes, name: str) -> list[str]:
    try:
        lines = data.decode("utf-8-sig").split("\n")  # without a byte-order mark
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, line {_line_number(error.object, error.start)} is not UTF-8 ({error.reason}): convert the "
            "file to UTF-8."
        ) from error
    return lines if lines[-1] else lines[:-1]


def stream_lines(file: Iterable[bytes], name: str) -> Iterator[str]:
    """The lines of a stream as they come; only `\\n` ends a line, and whatever else is in it stays there, `\\r` too.

    A byte-order mark at the start is left out.

    Args:
        file: Its lines with their ends, as a binary file gives them; UTF-8.
        name: What errors call it.

    Raises: InputError, naming the line, if one is not UTF-8.
    """
    for number, line in enumerate(file, start=1):
        try:
            yield line.removesuffix(b"\n").decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}, line {number} is not UTF-8 ({error.reason}): convert the file to UTF-8."
            ) from error


def _line_number(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def locate(path: str) -> Path:
    """Where a file is; `package:NAME` is one that comes with this package, wherever that is installed."""
    name = path.removeprefix(PACKAGE)
    return Path(name) if name == path else Path(__file__).parent / name


def read_bytes(path: str) -> bytes:
    try:
        data = locate(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        match Path(path).suffix.lower():
            case ".gz":
                return gzip.decompress(data)
            case ".xz":
                return lzma.decompress(data)
            case ".zst":
                return _decompress_zst(data, path)
            case _:
                return data
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} cannot be decompressed ({error}): it is damaged, or of another format.") from error


def _decompress_zst(data: bytes, path: str) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise InputError(f"Reading {path} needs the zstandard module: pip install zstandard.") from error
    frames = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            frames.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        if not frame.eof:  # the module itself takes a truncated file for a whole one
            raise EOFError("the file is truncated")
        data = frame.unused_data
    return b"".join(frames)

"""Lines of text files in strict UTF-8, compressed or not.

Only `\\n` ends a line.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from transformer.data.raw_files import HARMLESS, read_blocks
from transformer.errors import InputError, require


def read_lines(path: str) -> Iterator[str]:
    """Yields the lines of a text file, compressed or not. Only `\\n` ends a line.

    Raises: InputError if the file is missing, damaged or not UTF-8, or has a `\\r` inside a line.
    """
    return _lines(path, decode_lines)


def read_raw_lines(path: str) -> Iterator[str]:
    """Yields the lines of a text file as `read_lines` does, but keeps every `\\r`."""
    return _lines(path, split_lines)


def _lines(path: str, split: Callable[[bytes, str, int], list[str]]) -> Iterator[str]:
    first = 1
    for part in _whole_lines(read_blocks(path), path):
        lines = split(part, path, first)
        yield from lines
        first += len(lines)


def _whole_lines(blocks: Iterable[bytes], path: str) -> Iterator[bytes]:
    """Yields the same bytes divided after line ends only."""
    rest, size = list[bytes](), 0
    for block in blocks:
        if end := block.rfind(b"\n") + 1:
            yield b"".join([*rest, block[:end]])
            rest, size = [], 0
        rest.append(block[end:])
        size += len(block) - end
        require(size <= HARMLESS, f"{path} has a line of more than {HARMLESS:,} bytes, which no sentence has.")
    if last := b"".join(rest):
        yield last


def decode_lines(data: bytes, name: str, first: int = 1) -> list[str]:
    """Splits UTF-8 text into lines. Only `\\n` ends a line.

    U+2028, U+0085, vertical tab and form feed stay in their line.

    A byte-order mark at the start is removed, and so is the `\\r` of a Windows line end (`\\r\\n`).

    Args:
        data: The text in UTF-8.
        name: Name of the text in error messages.
        first: Number of its first line. A byte-order mark can only be in line 1.

    Raises: InputError, naming the line, if the text is not UTF-8 or has a `\\r` inside a line.
    """
    # Other programs often treat a lone \r as a line end. They would count other lines in the same file, and would pair
    # its sentences with other translations.
    data = data.replace(b"\r\n", b"\n")
    if (position := data.find(b"\r")) >= 0:
        line = first + data.count(b"\n", 0, position)
        raise InputError(f"{name}, line {line} has a carriage return (\\r) inside it. Replace it with a space.")
    return split_lines(data, name, first)


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Splits a text into chunks that fit, by halving it as often as necessary.

    Each split is at the sentence end nearest to the middle, if the middle half of the text has one. Otherwise it is
    between the two words nearest to the middle, and if the middle half has no space, exactly in the middle.

    Args:
        text: One line.
        fits: Whether a chunk is short enough. A single character is always accepted.

    Returns: The chunks in order, without the white space at the splits. Blank chunks are left out.
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
    return [*split_text(text[:middle].strip(), fits), *split_text(text[middle:].strip(), fits)]


def check_text(text: object, name: str) -> None:
    """Raises an InputError unless a value is a string that can be encoded as UTF-8.

    Args:
        text: The value.
        name: Name of the value in the message.
    """
    if not isinstance(text, str):
        raise InputError(f"{name} must be a string, but is of type {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        raise InputError(f"{name} has an unpaired surrogate ({surrogate}), so it is not valid Unicode text.") from error


def split_lines(data: bytes, name: str, first: int = 1) -> list[str]:
    """Splits UTF-8 text at `\\n` and keeps every `\\r`; see `decode_lines`."""
    try:
        # The first codec removes a byte-order mark.
        lines = data.decode("utf-8-sig" if first == 1 else "utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, first + error.object.count(b"\n", 0, error.start), error) from error
    return lines if lines[-1] else lines[:-1]


def stream_lines(file: Iterable[bytes], name: str) -> Iterator[str]:
    """Yields the lines of a stream as they arrive.

    Only `\\n` ends a line, and a `\\r` stays in it.

    A byte-order mark at the start is removed.

    Args:
        file: The lines with their line ends, as a binary file yields them, in UTF-8.
        name: Name of the stream in error messages.

    Raises: InputError, naming the line, if a line is not UTF-8.
    """
    for number, line in enumerate(file, start=1):
        try:
            yield line.removesuffix(b"\n").decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(name, number, error) from error


def _not_utf8(name: str, line: int, error: UnicodeDecodeError) -> InputError:
    return InputError(
        f"{name}, line {line} is not UTF-8 ({error.reason}). Convert the text to UTF-8, for example with iconv."
    )

"""Data files as bytes: local, of this package or on any path of fsspec, compressed or not."""

import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformer.errors import InputError, require

PACKAGE = "package:"
"""Prefix of files in this folder. A run keeps this name, because a path into site-packages may not exist later."""
COMPRESSIONS = (".gz", ".xz", ".zst")
BLOCK = 2**20  # bytes that are read at once
HARMLESS, _RATIO = 2**26, 100
"""Bytes that any file may unpack to. Text compresses to a tenth at best, so what unpacks to more than this and to 100
times its size is not meant to be read."""
_PACKED_BLOCK = 2**12  # bytes of .zst to unpack at once, which may hold 128 MB


def locate(path: str) -> Path:
    """The path of a local file, where `package:NAME` comes with this package."""
    name = path.removeprefix(PACKAGE)
    return Path(name) if name == path else Path(__file__).parent / name


def is_remote(path: str) -> bool:
    """Whether fsspec opens the file, as with `s3://bucket/train.en.gz`."""
    return "://" in path


def open_file(path: str) -> Any:
    """Opens a file as it is stored, for reading bytes. The files of fsspec have no common class.

    Raises: InputError if it cannot be opened, or if the package for its protocol is missing.
    """
    if is_remote(path):
        return _open_remote(path)
    try:
        return locate(path).open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path!r} is not the name of a file ({error}).") from error


def version(path: str) -> str | None:
    """What a remote store says that identifies the version of a file, such as its time or ETag; None for a local file.

    Raises: InputError if the store cannot be reached or lacks the file.
    """
    if not is_remote(path):
        return None
    import fsspec

    with open_file(path):  # which explains what is wrong
        filesystem, name = fsspec.url_to_fs(path)
        about = json.dumps(filesystem.info(name), sort_keys=True, default=str)  # `ukey` of a web server is its address
        return hashlib.sha256(about.encode()).hexdigest()


def read_bytes(path: str) -> bytes:
    """Reads a file, and decompresses it if its suffix is `.gz`, `.xz` or `.zst`; see `read_blocks`."""
    return b"".join(read_blocks(path))


def read_blocks(path: str) -> Iterator[bytes]:
    """Yields the content of a file in blocks, decompressed if its suffix is `.gz`, `.xz` or `.zst`.

    Raises: InputError if the file cannot be read or decompressed, or unpacks to far more than text does. Also if a
        `.zst` file needs the missing module.
    """
    suffix = Path(path).suffix.lower()
    with open_file(path) as file:
        try:
            unpacked = 0
            for block in _decompressed(file, suffix, path):
                unpacked += len(block)
                check_ratio(path, file.tell() if suffix in COMPRESSIONS and file.seekable() else unpacked, unpacked)
                yield block
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            # The libraries of compression give no error number.
            if suffix not in COMPRESSIONS or getattr(error, "errno", None) is not None:
                raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
            raise InputError(
                f"{path} cannot be decompressed ({error}). The file is damaged, or its suffix names another format."
            ) from error


def check_ratio(path: str, packed: int, unpacked: int) -> None:
    """Raises InputError if a file of `packed` bytes unpacks to more than 64 MB and 100 times its size."""
    largest = max(HARMLESS, _RATIO * packed)
    require(
        unpacked <= largest,
        f"{path} has {packed:,} bytes, but unpacks to more than {largest:,}, which no text does. If you trust it, "
        "unpack it and give the plain text.",
    )


def _open_remote(path: str) -> Any:
    import fsspec  # most runs read local files

    try:
        filesystem, name = fsspec.url_to_fs(path)
        return filesystem.open(name, "rb")
    except FileNotFoundError as error:
        raise InputError(f"{path} cannot be read: No such file or directory.") from error
    except Exception as error:  # failures of protocols, network and authorization have no common base class
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(f"{path} cannot be read: {reason}.") from error


def _decompressed(file: Any, suffix: str, path: str) -> Iterator[bytes]:
    match suffix:
        case ".gz":
            with gzip.GzipFile(fileobj=file) as plain:
                yield from _blocks(plain.read)
        case ".xz":
            with lzma.LZMAFile(file) as plain:
                yield from _blocks(plain.read)
        case ".zst":
            yield from _decompressed_zst(file, path)
        case _:
            yield from _blocks(file.read)


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while block := read(BLOCK):
        yield block


def _decompressed_zst(file: Any, path: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise InputError(f"Reading {path} needs the zstandard module: pip install zstandard") from error
    frame, data = None, file.read(_PACKED_BLOCK)
    while data:
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            yield frame.decompress(data)
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        data = frame.unused_data or file.read(_PACKED_BLOCK)
        if frame.eof:
            frame = None
    if frame is not None:  # zstandard itself accepts a truncated file
        raise EOFError("the file is truncated")

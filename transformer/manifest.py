"""The SHA-256 checksums of the files in a folder.

`sha256sum --check SHA256SUMS` reads the manifest too. Its last line is a comment with the checksum of the other lines.
"""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

from transformer.files import read_regular

MANIFEST = "SHA256SUMS"
_LAST = "# SHA-256 of the lines above: "


def write_manifest(folder: Path, without: Collection[str] = ()) -> None:
    """Writes the manifest of all files in a folder and its subfolders.

    No reader may use the folder before this function returns.

    Args:
        folder: The folder.
        without: Names of files to leave out.
    """
    others = {folder / name for name in (MANIFEST, *without)}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in others)
    lines = "".join(f"{_checksum(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    (folder / MANIFEST).write_text(f"{lines}{_LAST}{_checksum_of(lines)}\n", encoding="utf-8")


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest, damaged or not."""
    return (folder / MANIFEST).exists()


def damaged_files(folder: Path, subfolders: Collection[str]) -> list[str]:
    """The files of a folder that are missing, unreadable or not what the manifest says.

    Only files that the folder itself contains are read, whatever names the manifest has.

    Args:
        folder: A folder with a manifest.
        subfolders: The subfolders to check. Files that are in no subfolder are always checked.

    Returns: Their names relative to the folder, sorted. The name of the manifest alone if that is damaged.
    """
    known = _read_manifest(folder)
    if known is None:
        return [MANIFEST]
    expected = {name for name in known if "/" not in name or name.partition("/")[0] in subfolders}
    found = {file.relative_to(folder).as_posix(): file for file in _files(folder, subfolders)}
    return sorted(name for name in expected if name not in found or not _matches(found[name], known[name]))


def missing_files(folder: Path) -> list[str]:
    """The files that the manifest of a folder names but the folder lacks, without reading any other file.

    Returns: As `damaged_files`.
    """
    known = _read_manifest(folder)
    if known is None:
        return [MANIFEST]
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    return sorted(known.keys() - present)


def _files(folder: Path, subfolders: Collection[str]) -> Iterator[Path]:
    yield from (path for path in folder.glob("*") if path.is_file())
    for name in subfolders:
        yield from (path for path in (folder / name).rglob("*") if path.is_file())


def _read_manifest(folder: Path) -> dict[str, str] | None:
    """The checksum of each file by its name; None if the manifest is missing or damaged."""
    try:
        lines, last, checksum = read_regular(folder / MANIFEST).decode().rpartition(_LAST)
    except (OSError, UnicodeDecodeError):
        return None
    if not last or checksum != f"{_checksum_of(lines)}\n":
        return None
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines.splitlines())}


def _matches(file: Path, checksum: str) -> bool:
    try:
        return _checksum(file) == checksum
    except OSError:
        return False


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _checksum_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Malformed bytes, values and folders, made of valid ones with a random generator."""

import gzip
import json
import lzma
import math
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import zstandard

TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\ud800",
        "\u2028",
        "\ufeff",
        "a\rb",
        "a\nb",
        "\x1b[31m",
        "🙂",
        "e\u0301",
        "%s",
        "{}",
        "-",
        "--",
        "~",
    ),
    *("None", "null", "true", "auto", "best", "1e999", "-1", "NaN", "0x10", "١٢", "1_000", "9" * 5000, "x" * 50_000),
    *("..", ".", "/", "/dev/null", "../../../etc/passwd", "https://example.org/a.jsonl", "owner/name", "package:../x"),
    *("</s>", "<unk>", "<pad>", ">>fra<<", "▁", "a", "the", "$(id)", "__import__('os').abort()"),
)
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**30, -(10**30), 10**400),
    *(0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, math.nan, math.inf, -math.inf),
)
BYTES = (
    b"\0",
    b"\xff",
    b"\xfe\xff",
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b'"',
    b"{",
    b"[" * 3000,
    b"9" * 5000,
    b"\\ud800",
    b"-",
)


def junk(random: Random, depth: int = 3) -> Any:
    """A value of any JSON type, often an extreme one."""
    kind = random.randrange(7 if depth else 4)
    if kind == 0:
        return random.choice(TEXTS)
    if kind == 1:
        return random.choice(NUMBERS)
    if kind in (2, 3):
        return random.choice((None, True, False, [], {}, "", 0))
    if kind == 4:
        return [junk(random, depth - 1) for _ in range(random.randrange(4))]
    if kind == 5:
        return {random.choice(TEXTS): junk(random, depth - 1) for _ in range(random.randrange(4))}
    return nested(random.choice(([], {})), random.choice((50, 500)))


def nested(value: Any, depth: int) -> Any:
    """A value inside that many lists."""
    for _ in range(depth):
        value = [value]
    return value


def changed(random: Random, value: Any) -> Any:
    """A JSON value with one random change somewhere in it."""
    keys: list[Any] = [*value] if isinstance(value, dict) else [*range(len(value))] if isinstance(value, list) else []
    if not keys or random.random() < 0.1:
        return junk(random)
    key, copy = random.choice(keys), value.copy()
    how = random.randrange(10)
    if how < 7:
        copy[key] = changed(random, value[key])
    elif how == 7:
        del copy[key]
    elif how == 8:
        copy[key] = value[random.choice(keys)]
    elif isinstance(copy, dict):
        copy[random.choice(TEXTS)] = junk(random)
    else:
        copy.insert(key, junk(random))
    return copy


def changed_json(random: Random, text: bytes) -> bytes:
    """The text of a JSON value after one to three changes."""
    value = json.loads(text)
    for _ in range(random.randint(1, 3)):
        value = changed(random, value)
    return json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def damaged(random: Random, data: bytes) -> bytes:
    """Bytes after one to three changes: flipped, cut off, removed, repeated, inserted or overwritten."""
    for _ in range(random.randint(1, 3)):
        data = _damaged_once(random, data)
    return data


def _damaged_once(random: Random, data: bytes) -> bytes:
    start, length = random.randint(0, len(data)), random.choice((1, 2, 8, 100))
    before, part, after = data[:start], data[start : start + length], data[start + length :]
    how = random.randrange(7)
    if how == 0:
        return before
    if how == 1:
        return before + after
    if how == 2:
        return before + part * random.choice((2, 3, 1000)) + after
    if how == 3:
        return before + random.choice(BYTES) + part + after
    if how == 4:
        return before + random.randbytes(len(part)) + after
    if how == 5:
        return random.choice((b"", b"\0" * 1000, random.randbytes(50), data + data, random.choice(BYTES)))
    return before + bytes(byte ^ 1 << random.randrange(8) for byte in part) + after


def any_bytes(random: Random, valid: bytes) -> bytes:
    """Valid, changed as JSON where it is JSON, or damaged."""
    how = random.randrange(8)
    if how == 0:
        return valid
    if how < 5:
        try:
            return changed_json(random, valid)
        except (ValueError, RecursionError):
            return damaged(random, valid)
    return damaged(random, valid)


def compressed(random: Random, data: bytes, suffix: str) -> bytes:
    """The data in the format of a suffix; sometimes damaged, or in another format."""
    if random.random() < 0.1:
        suffix = random.choice(("", ".gz", ".xz", ".zst"))
    if suffix == ".gz":
        data = gzip.compress(data, 1, mtime=0)
    elif suffix == ".xz":
        data = lzma.compress(data, preset=0)
    elif suffix == ".zst":
        data = zstandard.compress(data)
    return damaged(random, data) if suffix and random.random() < 0.2 else data


def changed_folder(random: Random, folder: Path) -> list[Path]:
    """Changes one to three files of a folder, and returns which. The files may be hard links, which are replaced."""
    found = []
    for _ in range(random.randint(1, 3)):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        if files:
            found.append(random.choice(files))
            _change_file(random, found[-1], files)
    return found


def _change_file(random: Random, file: Path, files: list[Path]) -> None:
    data, how = file.read_bytes(), random.randrange(16)
    file.unlink()
    if how == 0:
        return
    if how == 1:
        file.mkdir()
    elif how == 2:
        os.mkfifo(file)
    elif how == 3:
        file.symlink_to(random.choice(("/dev/zero", "/dev/null", "..", "nothing", file.name, "/etc/passwd")))
    elif how == 4:
        shutil.copyfile(random.choice([other for other in files if other != file] or ["/dev/null"]), file)
    elif how == 5:
        file.write_bytes(data)
        file.chmod(0)
    elif how == 6:
        file.parent.rename(file.parent.with_name(random.choice(("0", "-1", "10.tmp", "٣", "9" * 30, "x"))))
    else:
        file.write_bytes(any_bytes(random, data))

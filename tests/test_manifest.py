"""Every damaged byte of a folder with a manifest is noticed, in the files that are asked for."""

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from transformer.checkpoint import Checkpoints
from transformer.manifest import MANIFEST, damaged_files, has_manifest, write_manifest


class State(NamedTuple):
    step: Any
    params: Any
    moments: Any


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as training writes it."""
    run = tmp_path_factory.mktemp("run")
    values = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32)
    with Checkpoints(run, 1, "print") as checkpoints:
        checkpoints.save(7, State(np.array(7), {"params": {"w": values}}, {"w": values}), {"validation_loss": 1.5})
    return run / "checkpoints" / "7"


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damages(data: bytes) -> Iterator[bytes | None]:
    """Contents with one flipped bit, cut short or with a byte too many; None is a deleted file."""
    for offset in sorted({0, 1, len(data) // 3, len(data) // 2, len(data) - 1}):
        yield data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :]
    yield data[:-1]
    yield b""
    yield data + b"\0"
    yield None


def write(file: Path, data: bytes | None) -> None:
    file.unlink() if data is None else file.write_bytes(data)


@pytest.mark.parametrize("read", [["metrics"], ["params"], ["params", "rest"]], ids=str)
def test_damage_to_any_file_of_a_checkpoint_is_noticed_by_what_reads_it(checkpoint: Path, read: list[str]):
    assert damaged_files(checkpoint, read) == []
    for file in files_of(checkpoint):
        name, data = file.relative_to(checkpoint).as_posix(), file.read_bytes()
        noticed = "/" not in name or name.split("/")[0] in read
        for damaged in damages(data):
            write(file, damaged)
            assert damaged_files(checkpoint, read) == ([name] if noticed else []), (name, damaged)
        file.write_bytes(data)
    assert damaged_files(checkpoint, read) == []


def test_two_files_that_change_places_are_noticed(checkpoint: Path):
    files = [file for file in files_of(checkpoint) if file.name != MANIFEST]
    for first, second in itertools.pairwise(files):
        contents = first.read_bytes(), second.read_bytes()
        if contents[0] == contents[1]:
            continue
        first.write_bytes(contents[1])
        second.write_bytes(contents[0])
        names = [file.relative_to(checkpoint).as_posix() for file in (first, second)]
        assert damaged_files(checkpoint, ["metrics", "params", "rest"]) == sorted(names)
        first.write_bytes(contents[0])
        second.write_bytes(contents[1])
    assert damaged_files(checkpoint, ["metrics", "params", "rest"]) == []


def test_every_flipped_byte_of_the_manifest_is_noticed(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path)
    file = tmp_path / MANIFEST
    data = file.read_bytes()
    for offset in range(len(data)):
        file.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :])
        assert damaged_files(tmp_path, []) == [MANIFEST]
    file.write_bytes(data)
    assert damaged_files(tmp_path, []) == []


def test_sha256sum_reads_the_manifest(checkpoint: Path):
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    command = ["sha256sum", "--check", "--strict", "--quiet", MANIFEST]
    result = subprocess.run(command, cwd=checkpoint, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_files_that_were_added_do_no_harm_and_others_are_never_opened(tmp_path: Path):
    folder, outside = tmp_path / "folder", tmp_path / "secret"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "a").write_bytes(b"a")
    assert not has_manifest(folder)
    write_manifest(folder)
    assert has_manifest(folder)
    (folder / "part" / ".DS_Store").touch()
    assert damaged_files(folder, ["part"]) == []
    outside.write_bytes(b"a")
    lines = (folder / MANIFEST).read_text().replace("part/a", "../secret")
    (folder / MANIFEST).write_text(lines)
    assert damaged_files(folder, [".."]) == [MANIFEST]
    (folder / "part" / "a").rename(folder / "part" / "b")
    write_manifest(folder)
    (folder / "part" / "b").unlink()
    assert damaged_files(folder, ["part"]) == ["part/b"]

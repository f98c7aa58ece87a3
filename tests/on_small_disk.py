"""Saves checkpoints to a disk that fails in several ways; run by `test_disks.py` where it may mount a disk.

Prints the message of each failure, and checks after each that the checkpoints before it are sound.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer.checkpoint import Checkpoints
from transformer.checkpoint_arrays import load_params
from transformer.checkpoint_records import records
from transformer.errors import InputError

SIZE = 1_000_000  # bytes of each of the two arrays


class State(NamedTuple):
    params: Any
    moments: Any


def state(step: int) -> State:
    values = {"w": np.frombuffer(np.random.default_rng(step).bytes(SIZE), np.int32)}  # cannot be compressed
    return State({"params": values}, values)


def save(run: Path, step: int) -> None:
    try:
        with Checkpoints(run, 9, "print") as checkpoints:
            checkpoints.save(step, state(step), {})
    except InputError as error:
        print(error)


def assert_sound(run: Path, *steps: int) -> None:
    assert tuple(record.step for record in records(run)) == steps
    for step in steps:
        loaded, expected = load_params(run, [step], "print"), state(step).params
        np.testing.assert_array_equal(loaded["params"]["w"], expected["params"]["w"])


def fill(disk: Path, free: int) -> None:
    """Writes a file of which all but this number of bytes has no room."""
    status = os.statvfs(disk)
    (disk / "filler").write_bytes(b"x" * (status.f_bavail * status.f_frsize - free))


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def main(disk: Path) -> None:
    mount("-t", "tmpfs", "-o", "size=10m", "tmpfs", disk)
    run = disk / "run"
    run.mkdir()
    save(run, 1)
    fill(disk, free=2 * SIZE + 8192)  # for the arrays, but not for their folders
    save(run, 2)
    assert_sound(run, 1)
    (disk / "filler").unlink()
    save(run, 2)
    fill(disk, free=SIZE)
    save(run, 3)
    assert_sound(run, 1, 2)
    (disk / "filler").unlink()
    mount("--bind", run / "checkpoints", run / "checkpoints")
    mount("-o", "remount,ro,bind", run / "checkpoints")
    save(run, 3)
    assert_sound(run, 1, 2)
    subprocess.run(["umount", run / "checkpoints"], check=True)
    with Checkpoints(run, 9, "print") as checkpoints:
        shutil.rmtree(run)
        try:
            checkpoints.save(3, state(3), {})
        except InputError as error:
            print(error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

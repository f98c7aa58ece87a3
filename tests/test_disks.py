"""A disk that is full, read-only or removed: what is said, and what survives."""

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from on_small_disk import SIZE, assert_sound, save, state

from transformer.checkpoint import Checkpoints
from transformer.errors import InputError
from transformer.run_dir import written

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
AGAIN = ", and run the same command again; it resumes from the last complete checkpoint, if any."


def may_mount() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    )


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing more than this number of bytes to a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_repeatedly(checkpoints: Checkpoints, seconds: float = 10) -> None:
    """Checks as the training loop does, which never waits."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        checkpoints.check()
        time.sleep(0.01)


def test_a_background_save_that_fails_is_reported_and_the_checkpoint_before_it_survives(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    save(tmp_path, 1)
    with Checkpoints(tmp_path, 1, "print") as checkpoints, file_size_limit(SIZE // 2):
        checkpoints.save(2, state(2), {})  # in the background
        with pytest.raises(InputError) as raised:
            check_repeatedly(checkpoints)
    said = f"Could not write to the run directory {tmp_path} (File too large). Fix the cause{AGAIN}"
    assert str(raised.value) == said
    assert_sound(tmp_path, 1)
    save(tmp_path, 2)
    with Checkpoints(tmp_path, 1, "print") as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore(2, state(0)).moments["w"], state(2).moments["w"])
    assert capfd.readouterr() == ("", "")  # no tracebacks of orbax


def test_a_disk_that_is_full_read_only_or_removed(tmp_path: Path):
    if not may_mount():
        pytest.skip("this user may not mount a disk in a namespace of its own (unshare)")
    script = Path(__file__).with_name("on_small_disk.py")
    result = subprocess.run([*NAMESPACE, sys.executable, script, tmp_path], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    run = tmp_path / "run"
    full, short, read_only, gone = result.stdout.splitlines()
    assert full == f"Could not write to the run directory {run} (No space left on device). Free some space{AGAIN}"
    assert short.startswith(
        f"Cannot save the checkpoint of step 3: it needs 2.0 MB, but only 1.0 MB are free in {run}/checkpoints. Free "
    )
    assert read_only == f"Could not write to the run directory {run} (Read-only file system). Fix the cause{AGAIN}"
    assert gone == f"The run directory {run} no longer exists. Restore it, or mount its disk again{AGAIN}"


def test_other_errors_keep_their_own_messages(tmp_path: Path):
    with pytest.raises(BrokenPipeError), written(tmp_path):  # standard output, which has its own exit status
        raise BrokenPipeError
    with pytest.raises(InputError, match=r"^another$"), written(tmp_path):
        raise InputError("another")

"""The record of each start of a run."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from transformer import starts
from transformer.interruption import Interrupted
from transformer.starts import FILE, Start, commit, read_starts, recorded

FIELDS = {
    "command": "transformer.train",
    "backend": "gpu",
    "processes": 1,
    "strategy": "pmap",
    "dtype": "float32",
    "attention": "plain",
}


def start(step: int, devices: tuple[str, ...] = ("NVIDIA H200",) * 2) -> Start:
    return Start.now(devices, step=step, **FIELDS)


def test_a_start_has_versions_devices_and_only_named_variables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    monkeypatch.setenv("JAX_SECRET_TOKEN", "secret")
    monkeypatch.setattr(starts, "processor", lambda: "AMD EPYC, 2 cores")
    found = start(0, ("cpu", "cpu"))
    assert found.devices == {"AMD EPYC, 2 cores": 2}
    assert found.environment["XLA_FLAGS"] == "--xla_gpu_autotune_level=0"
    assert set(found.environment) <= set(starts.VARIABLES)
    assert "secret" not in json.dumps(found._asdict())
    assert {"python", "jax", "jaxlib", "numpy", "orbax-checkpoint"} <= found.versions.keys()
    assert start(0).devices == {"NVIDIA H200": 2}


def test_each_start_is_a_line_with_its_end(tmp_path: Path):
    with recorded(tmp_path, start(0), pytest.fail):  # pyright: ignore[reportArgumentType]
        (running,) = read_starts(tmp_path)
        assert (running.ended, running.reason) == (None, None)
    with pytest.raises(Interrupted), recorded(tmp_path, start(10), pytest.fail):  # pyright: ignore[reportArgumentType]
        raise Interrupted(signal.SIGTERM)
    with pytest.raises(OSError, match="full"), recorded(tmp_path, start(20), pytest.fail):  # pyright: ignore[reportArgumentType]
        raise OSError("full")
    found = read_starts(tmp_path)
    assert [(one.step, one.reason) for one in found] == [(0, None), (10, "SIGTERM"), (20, "full")]
    assert all(one.ended is not None and one.ended >= one.time for one in found)


def test_what_changed_since_the_last_start_is_said(tmp_path: Path):
    said: list[str] = []
    first = start(0)
    for now in (
        first,
        first._replace(step=10, time="2026-01-01T00:00:00+00:00"),
        first._replace(
            versions=first.versions | {"jax": "9.9"},
            devices={"NVIDIA B200": 8},
            strategy="mesh data=1 fsdp=8 tensor=1",
            dtype="bfloat16",
        ),
    ):
        with recorded(tmp_path, now, said.append):
            pass
    assert said == [
        f"Changed since the last start: jax {first.versions['jax']} to 9.9, devices 2 x NVIDIA H200 to 8 x NVIDIA "
        "B200, strategy pmap to mesh data=1 fsdp=8 tensor=1, dtype float32 to bfloat16. Results may differ by "
        "rounding from now on."
    ]


def test_the_error_is_reported_if_the_disk_that_failed_takes_no_record(tmp_path: Path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with pytest.raises(NotADirectoryError), recorded(run_dir, start(0), print):
        run_dir.rename(tmp_path / "unmounted").joinpath(FILE, "file").touch()


@pytest.mark.parametrize("line", ["{", "[1]", "{}", "null", 100_000 * "[", '{"time": 1}', "\\ud800"])
def test_damaged_lines_are_left_out_and_kept_in_the_file(tmp_path: Path, line: str):
    (tmp_path / FILE).write_text(f"{line}\n")
    assert read_starts(tmp_path) == []
    with recorded(tmp_path, start(5), pytest.fail):  # pyright: ignore[reportArgumentType]
        pass
    assert [one.step for one in read_starts(tmp_path)] == [5]
    assert (tmp_path / FILE).read_text().startswith(f"{line}\n")


@pytest.mark.parametrize(
    "change",
    [
        *({"time": "yesterday"}, {"time": 5}, {"time": "0001-01-01T00:00:00"}, {"ended": "never"}, {"step": "x"}),
        *({"devices": 3}, {"devices": {"cpu": "two"}}, {"versions": []}, {"commit": 5}, {"reason": []}),
    ],
)
def test_a_line_with_other_types_is_damaged(tmp_path: Path, change: dict[str, Any]):
    (tmp_path / FILE).write_text(json.dumps(start(0)._asdict() | change))
    assert read_starts(tmp_path) == []


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_of_a_checkout_is_known(tmp_path: Path):
    package = tmp_path / "transformer"
    package.mkdir()
    (package / "a.py").write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(package) == head
    (package / "b.py").write_text("2")  # not tracked
    assert commit(package) == head
    (package / "a.py").write_text("2")
    assert commit(package) == f"{head}-dirty"
    assert commit(package / "deeper") is None  # the repository around a virtual environment is not the package's own

"""How far a run is, as its files say."""

import fcntl
import json
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from transformer.checkpoint import Checkpoints
from transformer.cli import main
from transformer.config import Config, TrainingConfig
from transformer.counters import Counters
from transformer.run_dir import DIVERGED, SCORES, hold_run, is_held, open_run
from transformer.starts import FILE, Start
from transformer.status import read_status


class State(NamedTuple):
    step: Any
    params: Any


ROOT = Path(__file__).parents[1]
START = Start.now(
    ("cpu",),
    step=0,
    command="transformer train",
    backend="cpu",
    processes=1,
    strategy="pmap",
    dtype="float32",
    attention="plain",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return open_run(tmp_path / "run", Config(training=TrainingConfig(steps=100, patience=3)))


def write_starts(run: Path, *starts: Start) -> None:
    (run / FILE).write_text("".join(f"{json.dumps(start._asdict())}\n" for start in starts))


def log(run: Path, *lines: dict[str, Any]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in lines)


def save(run: Path, step: int, loss: float | None = None, **arguments: Any) -> None:
    metrics = {} if loss is None else {"validation_loss": loss}
    with Checkpoints(run, 5, "print") as checkpoints:
        checkpoints.save(step, State(np.array(step), {"params": np.zeros(1)}), metrics, **arguments)


def test_the_state_follows_a_run_from_its_start_to_its_scores(run: Path):
    assert read_status(run).state == "not started"
    write_starts(run, START)
    assert read_status(run).state == "killed"
    with hold_run(run):
        assert read_status(run).state == "training"
    log(run, {"step": 10, "loss": 3.0, "tokens_per_second": 5.0})
    for reason in ("SIGTERM", "Could not write to the run directory."):
        write_starts(run, START._replace(ended=START.time, reason=reason))
        stopped = read_status(run)
        assert (stopped.state, stopped.reason, stopped.alive) == ("stopped", reason, False)
    (run / DIVERGED).write_text("Training diverged at step 11.\n")
    assert (read_status(run).state, read_status(run).reason) == ("diverged", "Training diverged at step 11.")
    (run / DIVERGED).unlink()
    save(run, 100, 2.0)
    assert read_status(run).state == "finished"
    with hold_run(run):
        assert read_status(run).state == "scoring"
    (run / SCORES).write_text("{}")
    assert read_status(run).state == "scored"


def test_step_speed_best_and_time_left_are_those_of_the_log(run: Path):
    started = datetime.now(UTC) - timedelta(seconds=60)
    write_starts(run, START, START._replace(step=20, time=started.isoformat()))
    log(
        run,
        {"step": 20, "loss": 3.0, "tokens_per_second": 7.0},
        {"step": 20, "validation_loss": 2.5},
        {"step": 40, "loss": 2.0, "tokens_per_second": 9.0},
        {"step": 40, "validation_loss": 2.75, "validation_bleu": 1.0},
        {"step": 50, "loss": None, "tokens_per_second": 11.0, "skipped_steps": 3},
    )
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "loss": 1.0, "tokens_per_sec')  # being written
    with hold_run(run):
        status = read_status(run)
    assert (status.step, status.steps, status.tokens_per_second) == (50, 100, 11.0)
    assert (status.best_validation_loss, status.best_step, status.skipped_steps) == (2.5, 20, 3)
    assert status.seconds_left == pytest.approx(50 * 60 / 30, rel=0.2)  # 30 steps took 60 s
    assert status.logged_ago == pytest.approx(0, abs=30)
    assert status.starts == 2
    assert read_status(run).seconds_left is None  # nobody trains


def test_the_last_checkpoint_is_checked_without_reading_arrays(run: Path):
    save(run, 10, 3.0)
    save(run, 15, resume_only=True, counters=Counters())
    last = read_status(run).last_checkpoint
    assert last is not None
    assert (last.step, last.complete) == (15, True)
    assert last.age == pytest.approx(0, abs=30)
    assert read_status(run).step == 15  # the log is empty
    (array,) = (run / "checkpoints" / "15" / "params" / "d").iterdir()
    array.unlink()
    damaged = read_status(run).last_checkpoint
    assert damaged is not None
    assert damaged.complete is False
    (run / "checkpoints" / "15" / "_CHECKPOINT_METADATA").write_text("{")
    unknown = read_status(run).last_checkpoint
    assert unknown is not None
    assert (unknown.age, unknown.complete) == (None, False)


def test_a_live_process_is_seen_and_keeps_its_lock(run: Path):
    program = (
        "import sys, pathlib, transformer.run_dir as r\nwith r.hold_run(pathlib.Path(sys.argv[1])):\n  print(); input()"
    )
    command = [sys.executable, "-c", program, str(run)]
    assert is_held(run) is False
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert is_held(run) is True
        assert (read_status(run).alive, read_status(run).state) == (True, "training")
        process.kill()
    assert is_held(run) is False


def test_a_starting_process_gets_the_lock_while_others_ask(run: Path):
    """`is_held` takes the lock for an instant, for which a starting process waits."""
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.05, file.close).start()
        with hold_run(run):
            assert is_held(run) is True


def test_nothing_is_written_and_jax_is_not_imported(run: Path):
    log(run, {"step": 10, "loss": 3.0, "tokens_per_second": 5.0})
    write_starts(run, START)
    save(run, 10, 3.0)
    before = {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}
    program = "import sys\nfrom transformer.cli import main\nmain(['status', sys.argv[1]])\nprint('jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program, str(run)], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    *lines, imported = result.stdout.splitlines()
    assert imported == "False"
    assert lines[0] == str(run)
    assert [line[:12].strip() for line in lines[1:]] == [
        *("state", "step", "speed", "checkpoint", "started", "last start", "versions")
    ]
    assert lines[1] == "  state       killed (no process holds the run)"
    assert {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]} == before


def test_json_has_the_documented_keys(run: Path, capsys: pytest.CaptureFixture[str]):
    write_starts(run, START)
    save(run, 10, 3.0)
    assert main(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["last_start"] == START._asdict()
    text = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    table = text.partition("## See how far a run is")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert documented == [*found]
    assert {*found["last_checkpoint"]} == {"step", "age", "complete"}


@pytest.mark.parametrize("name", ["empty", "missing", "file"])
def test_what_is_no_run_directory_is_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert main(["status", str(tmp_path / name)]) == 2
    assert "is not a run directory: it has no config.json" in capsys.readouterr().err

import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from transformer.training import metrics
from transformer.training.metrics import MetricsLog, Progress


def read(path: Path) -> list[dict]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def test_log_writes_and_flushes_one_object_per_line(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as log:
        log.write(100, loss=3.25, learning_rate=1.5e-3)
        assert read(path) == [{"step": 100, "loss": 3.25, "learning_rate": 1.5e-3}]
        log.write(200, loss=3.0, note="größer")
        assert read(path)[1] == {"step": 200, "loss": 3.0, "note": "größer"}


def test_log_has_null_for_values_that_are_not_finite(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as log:
        log.write(1, loss=math.nan, perplexity=math.inf, low=-math.inf, tokens=7)
    assert read(path) == [{"step": 1, "loss": None, "perplexity": None, "low": None, "tokens": 7}]


@pytest.mark.parametrize(
    "torn",
    [
        *("", '{"step": 400, "lo', '{"step": 100}', "\0\0\0", "12\n", "[]\n", '{"loss": 1}\n', '{"step": "1"}\n'),
        f'{{"step": 1, "loss": {"[" * 100_000}}}\n',
    ],
)
def test_log_continues_from_the_resumed_step(tmp_path: Path, torn: str):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as log:
        for step in (100, 200, 200, 300):
            log.write(step, loss=float(step))
    with path.open("a") as file:
        file.write(torn)
    with MetricsLog(path, 200) as log:
        log.write(300, loss=-1.0)
    assert [(line["step"], line["loss"]) for line in read(path)] == [(100, 100), (200, 200), (200, 200), (300, -1)]
    assert list(tmp_path.iterdir()) == [path]


class Clock:
    """A clock that tests advance by hand."""

    def __init__(self) -> None:
        self.now = 50.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    return clock


def test_progress_prints_plain_lines(clock: Clock, capsys: pytest.CaptureFixture):
    with Progress(8000, 1000) as progress:
        clock.now += 10
        progress.count(123_450)
        assert progress.update(1200, loss=3.4119, learning_rate=1.5e-3) == {"tokens_per_second": 12_345}
        progress.print("validation [loss] 2.5")
        clock.now += 50
        progress.count(1000)
        progress.update(1300, loss=3.4, learning_rate=1.4e-3)
    assert capsys.readouterr().out.splitlines() == [
        "step 1,200/8,000  loss 3.412  lr 1.5e-03  12,345 tokens/s  5:40 left",
        "validation [loss] 2.5",
        "step 1,300/8,000  loss 3.400  lr 1.4e-03  20 tokens/s  22:20 left",  # 60 s for 300 steps, 6,700 to go
    ]


def test_the_share_of_a_known_peak_is_shown(clock: Clock, capsys: pytest.CaptureFixture):
    """Two steps in 10 s, of which pauses take 2; at the peak a step takes 1.64 s."""
    with Progress(100, 0, shortest_step=1.64) as progress:
        for _ in range(2):
            with progress.pause():
                clock.now += 1
            clock.now += 4
            progress.count(200)
        assert progress.update(2, loss=3.0, learning_rate=1e-3) == {
            "tokens_per_second": 50,
            "share_of_peak": pytest.approx(0.41),
        }
    assert "  50 tokens/s (41% of the peak)  8:10 left" in capsys.readouterr().out


def test_speed_excludes_pauses(clock: Clock, capsys: pytest.CaptureFixture):
    with Progress(8000, 0) as progress:
        clock.now += 10
        progress.count(500)
        assert progress.update(100, loss=3.0, learning_rate=1e-3) == {"tokens_per_second": 50}
        with progress.pause():
            clock.now += 90  # validation
        clock.now += 5
        progress.count(500)
        assert progress.update(200, loss=3.0, learning_rate=1e-3) == {"tokens_per_second": 100}
        clock.now += 5
        progress.count(500)
        assert progress.update(300, loss=3.0, learning_rate=1e-3) == {"tokens_per_second": 100}
    assert capsys.readouterr().out.splitlines()[1].endswith("1:08:15 left")  # 105 s for 200 steps


def test_time_left_follows_the_recent_speed(clock: Clock, capsys: pytest.CaptureFixture):
    with Progress(100_000, 0) as progress:
        clock.now += 1000  # compiling
        progress.count(10)
        progress.update(1, loss=9.0, learning_rate=1e-7)
        for step in range(1, 20):
            clock.now += 1
            progress.count(10)
            progress.update(step * 100, loss=9.0, learning_rate=1e-7)
    assert capsys.readouterr().out.splitlines()[-1].endswith("16:21 left")  # 98,100 steps at 100 a second


ON_A_TERMINAL = """
from transformer.training.metrics import Progress
with Progress(8000, 0) as progress:
    progress.count(10)
    progress.update(1200, loss=3.4119, learning_rate=1.5e-3)
    progress.print("validation loss [2.5]")
    progress.count(10)
    progress.update(8000, loss=1.25, learning_rate=1.5e-3)
"""


def test_progress_is_a_bar_on_a_terminal():
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL], stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # on Linux, the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    lines = shown.decode().replace("\r", "\n").splitlines()
    assert "━" in shown.decode()
    assert any("step 8,000/8,000  loss 1.250  lr 1.5e-03" in line for line in lines)
    assert any(line.removeprefix("\x1b[2K") == "validation loss [2.5]" for line in lines)

"""Signals to a training process, which saves a checkpoint and resumes with the same results."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ROOT, write_corpus
from kills import COMMAND, Kill, finish, interrupt, result

from transformer.checkpoint_records import records
from transformer.interruption import SIGNALS
from transformer.run_dir import saved_steps

NATIVE = """
import hashlib
from transformer.interruption import check, deferred

with deferred(lambda text: print(text, flush=True)):
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)  # ignores signals until it returns, like XLA's compiler
"""


@pytest.fixture(scope="module", autouse=True)
def quick_processes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield


@pytest.fixture(scope="module", autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    """Processes inherit ignored signals: SIGHUP from nohup, SIGINT from a shell's background."""
    ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return [
        *(sys.executable, str(ROOT / "train.py"), "--config", f"{folder}/tiny.py"),
        *("--data.train", f"{folder}/train.en", f"{folder}/train.de"),
        *("--data.validation", f"{folder}/val.en", f"{folder}/val.de"),
        *("--data.test", f"{folder}/test.en", f"{folder}/test.de"),
        *("--training.steps", "200", "--training.validate-every", "100", "--training.log-every", "10"),
        *("--training.accumulation-steps", "2"),
    ]


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    subprocess.run([*command, "--run-dir", str(run_dir)], check=True, capture_output=True, timeout=120)
    return run_dir


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_saves_and_the_same_command_resumes(command, uninterrupted, tmp_path, name):
    number = signal.Signals[name]
    run_dir = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "--run-dir", str(run_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert any(line.startswith("step 10/200") for line in process.stdout)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    saved = records(run_dir)
    assert 10 <= saved[-1].step < 200
    assert saved[-1].resume_only
    first, second = error.splitlines()
    assert first == (
        f"{name}: stopping after the current step, or after the compilation in progress. A second signal stops at once."
    )
    assert second == f"Interrupted by {name}. The same command resumes from step {saved[-1].step}."
    if name != "SIGTERM":  # all are saved in the same way
        return
    again = subprocess.run([*command, "--run-dir", str(run_dir)], capture_output=True, text=True, timeout=120)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"resuming from step {saved[-1].step}\n" in again.stdout
    assert saved_steps(run_dir) == saved_steps(uninterrupted)
    assert result(run_dir) == result(uninterrupted)


def test_a_run_killed_three_times_ends_as_if_nothing_had_happened(command, uninterrupted, tmp_path):
    """`python tests/cli/kills.py` does the same as often as asked, in every stage."""
    run_dir = tmp_path / "run"
    own = [*COMMAND, *command[2:], "--run-dir", str(run_dir)]
    kills = Kill("saving", "SIGKILL", 1, 0.1), Kill("training", "SIGKILL", 3, 0.03), Kill("decoding", "SIGTERM", 1, 0)
    assert None not in [interrupt(own, kill) for kill in kills]  # it ended before the kill
    finish(own)
    assert result(run_dir) == result(uninterrupted)


def test_before_the_first_step_nothing_is_promised(command, tmp_path):
    process = subprocess.Popen(
        [*command, "--run-dir", str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("train: 200 pairs")  # later the first step is compiled
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "Interrupted by SIGINT. No checkpoint was saved, so the same command starts over."


def test_a_second_signal_stops_at_once():
    with subprocess.Popen([sys.executable, "-c", NATIVE], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline().startswith("SIGTERM: stopping")
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=10) == 128 + signal.SIGUSR1


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    program = NATIVE.replace("hashlib.pbkdf2_hmac", "import os, signal, time; os.kill(os.getpid(), 1); time.sleep(.2)#")
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{program}\n    check()"
    done = subprocess.run([sys.executable, "-c", ignoring], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (0, "begun\n")

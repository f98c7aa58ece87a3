"""Real processes that train together on the CPU, are stopped or killed, and resume as another number of processes."""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import write_corpus
from jobs import ends, start, start_job
from kills import result

from transformer.checkpoint_arrays import load_arrays
from transformer.checkpoint_records import records
from transformer.cli import main
from transformer.starts import read_starts

MANY = 100_000  # steps that are never reached
WITHIN = 30  # seconds in which a process ends after another one


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return [
        *("train", "--config", f"{folder}/tiny.py", "--data.train", f"{folder}/train.en", f"{folder}/train.de"),
        *("--data.validation", f"{folder}/val.en", f"{folder}/val.de", "--training.validation-bleu"),
        *("--data.test", f"{folder}/test.en", f"{folder}/test.de", "--training.validate-every", f"{2 * MANY}"),
        *("--model.dtype", "float32", "--training.log-every", "50", "--training.accumulation-steps", "2"),
    ]


def wait_for_steps(process: subprocess.Popen) -> None:
    assert process.stdout is not None
    assert any(f"/{MANY:,}" in line for line in process.stdout), process.communicate()[1]


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory) -> tuple[Path, int]:
    """A run of two processes, one of which got SIGTERM before the same command resumed it; and its steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "two"
    own = [*options, "--run-dir", str(run_dir)]
    job = start_job([*own, "--training.steps", str(MANY)])
    wait_for_steps(job[0])
    job[1].send_signal(signal.SIGTERM)
    stopped = ends(job)
    step = records(run_dir)[-1].step
    for ended in stopped:
        assert ended.status == 128 + signal.SIGTERM
        assert ended.err.endswith(f"Interrupted by SIGTERM. The same command resumes from step {step}.\n")
    first, second = ends(start_job([*own, "--training.steps", str(step + 6)]))
    assert (first.status, second.status, second.out) == (0, 0, ""), first.err + second.err
    assert f"resuming from step {step:,}\n" in first.out
    assert "on 2 devices of 2 processes, mesh data=2 fsdp=1 tensor=1\n" in first.out
    return run_dir, step + 6


def test_two_processes_do_what_one_does_with_as_many_devices(finished, options, tmp_path):
    """To the bit: the parameters, the optimizer's state, the log, the translations and the scores."""
    run_dir, steps = finished
    own = [*options, "--run-dir", str(tmp_path / "one"), "--training.steps", str(steps)]
    (ended,) = ends([start([*own, "--parallel.strategy", "mesh"], devices=2)])
    assert ended.status == 0, ended.err
    assert result(run_dir) == result(tmp_path / "one")
    assert [start.processes for start in read_starts(run_dir)] == [2, 2]


def test_a_killed_process_ends_the_others_and_one_process_resumes(finished, options, tmp_path):
    run_dir, steps = finished
    own = [*options, "--run-dir", str(run_dir)]
    job = start_job([*own, "--training.steps", str(MANY), "--training.save-every", "50"])
    wait_for_steps(job[0])
    job[1].kill()
    first, _ = ends(job, timeout=WITHIN)
    assert first.status in (1, -signal.SIGABRT), first.err  # JAX may abort a process before its exception is raised
    assert first.status != 1 or "Another process of the job has probably ended" in first.err
    saved = records(run_dir)[-1].step
    assert saved >= steps
    before = load_arrays(run_dir, saved)
    assert main([*own, "--training.steps", str(MANY), "--stop-after", str(saved + 1)]) == 0
    after = load_arrays(run_dir, saved + 1)
    assert before.keys() == after.keys()
    assert all(np.any(before[name] != after[name]) for name in before if name.startswith("params"))


def test_all_processes_refuse_what_one_refuses(options, tmp_path):
    run_dir = tmp_path / "refused"
    own = [*options, "--run-dir", str(run_dir), "--tokenizer.file", "missing.json"]
    for ended in ends(start_job(own)):
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.endswith("error: The tokenizer missing.json cannot be read: No such file or directory.\n")
    assert not run_dir.exists()


def test_processes_translate_and_score_together(finished, capsys):
    run_dir, _ = finished
    for ended, alone in zip(ends(start_job(["evaluate", str(run_dir), "--json"])), (True, False), strict=True):
        assert ended.status == 0, ended.err
        assert bool(ended.out) == alone
        if alone:
            assert main(["evaluate", str(run_dir), "--json"]) == 0
            expected, found = json.loads(capsys.readouterr().out), json.loads(ended.out)
            assert found.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-6)
            assert found.pop("perplexity") == pytest.approx(expected.pop("perplexity"), rel=1e-5)
            assert found == expected

"""`transformer train --verify-resume`, and `--stop-after`, which it uses."""

import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_refused, call, contents

from transformer.checkpoint_arrays import load_arrays, load_params
from transformer.checkpoint_records import records
from transformer.cli import resuming
from transformer.cli.resuming import Outcome
from transformer.interruption import Interrupted, immediate
from transformer.parameters import fingerprint

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_config_that_resumes_bit_for_bit(command, corpus, tmp_path, monkeypatch):
    """XLA accepts the flag of --deterministic, which changes nothing on a CPU."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setattr(resuming, "leave_accelerators", lambda: None)  # the tests after this one may need them
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = contents(corpus)
    result = call(*command, "--run-dir", f"{corpus}/run", "--deterministic", "--verify-resume")
    assert (result.status, result.err) == (0, "")
    first, second, verdict = result.out.splitlines()
    assert first == f"Training 6 steps in {first.split()[4]} ..."
    assert second == "Resuming from the checkpoint of step 4 in a new process ..."
    assert verdict.startswith("Resuming is exact. After step 6, parameters, optimizer state and log of the resumed run")
    assert list(tmp_path.iterdir()) == []
    assert contents(corpus) == before


def outcomes(*changes: tuple[str, float]) -> list[Outcome]:
    """An outcome for each array and number, which is added to one element of the array."""
    made = []
    for name, change in changes:
        arrays = {"params/w": np.ones((2, 2), np.float32), "rest/step": np.array(6)}
        arrays[name] = arrays[name] + np.array([[change, 0], [0, 0]] if name == "params/w" else 0).astype(np.float32)
        made.append(Outcome(arrays, [{"step": 6, "loss": 2.0}]))
    return made


@pytest.mark.parametrize(
    ("again", "message"),
    [
        (
            0.0,
            "Resuming is NOT exact: after step 6, 1 of 2 arrays differ, first params/w, and most params/w by up to 1",
        ),
        (0.5, "Resuming cannot be exact here, because two uninterrupted runs already differ: after step 6, 1 of 2"),
    ],
)
def test_a_config_that_does_not(command, monkeypatch, again, message):
    found = iter(outcomes(("params/w", 0.0), ("params/w", 1e-4), ("params/w", again)))

    def trained(_: object, run: Path) -> Outcome:
        (run / "checkpoints" / "6").mkdir(parents=True)
        return next(found)

    monkeypatch.setattr(resuming, "trained", trained)
    monkeypatch.setattr(resuming, "leave_accelerators", lambda: None)
    result = call(*command, "--verify-resume")
    assert result.status == 1
    assert message in result.out.splitlines()[-1]


def test_a_log_that_differs_is_a_difference():
    (outcome,) = outcomes(("params/w", 0.0))
    other = outcome._replace(log=[{"step": 6, "loss": 2.5}])
    assert resuming.differences(outcome, outcome) is None
    expected = "the log differs: {'step': 6, 'loss': 2.0} and {'step': 6, 'loss': 2.5}"
    assert resuming.differences(outcome, other) == expected
    longer = outcome._replace(log=[*outcome.log, {"step": 6, "validation_loss": 2.0}])
    assert resuming.differences(outcome, longer) == ("the log differs: None and {'step': 6, 'validation_loss': 2.0}")


def test_what_cannot_be_verified_is_refused(command):
    assert_refused(call(*command, "--verify-resume", "--training.steps", "5"), r"6 steps, but --training\.steps is 5\.")
    assert_refused(call(*command, "--verify-resume", "--profile", "3"), "runs of its own. Leave out --profile")
    assert_refused(call(*command, "--stop-after", "0"), "--stop-after must be at least 1, but is 0")


def test_a_stopped_run_resumes(run, command, trained):
    """It is a copy of the run without its last checkpoint."""
    expected = load_params(run, [20])
    shutil.rmtree(Path(run) / "checkpoints" / "20")
    stopped = call(*command, "--run-dir", run, "--stop-after", "13")
    assert (stopped.status, stopped.err) == (0, "")
    assert stopped.out.splitlines()[-1] == "Stopped after step 13. The same command without --stop-after resumes."
    assert not (Path(run) / "scores.json").exists()
    last = records(run)[-1]
    assert (last.step, last.resume_only) == (13, True)
    call(*command, "--run-dir", run, "--stop-after", "20")  # the last step, after which the test set is scored
    assert (Path(run) / "scores.json").exists()
    assert fingerprint(load_params(run, [20])) == fingerprint(expected)
    arrays = load_arrays(run, 20)
    np.testing.assert_array_equal(arrays["params/params/embedding"], expected["params"]["embedding"])
    assert arrays["rest/step"] == 20


def test_a_signal_can_interrupt_at_once():
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"), immediate():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == handler

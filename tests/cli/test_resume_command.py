"""Runs that are resumed with another config, from another folder, or from a damaged checkpoint."""

import errno
import json
import os
import shlex
import shutil
from pathlib import Path

import jax
import pytest
from command_line import assert_refused, call, damage

from transformer.checkpoint_arrays import load_params
from transformer.kept_pairs import read_validation_set
from transformer.run_dir import read_config, saved_steps
from transformer.runtime import resolve_dtype
from transformer.starts import read_starts

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_more_steps_continue_a_finished_run(run, command):
    more = ["--training.steps", "25", "--training.patience", "9", "--average", "1"]
    result = call(*command, "--run-dir", run, *more, "--profile", "3")
    assert (result.status, result.err) == (0, "")
    assert "resuming from step 20\n" in result.out
    assert f"Traced 3 steps in {run}/profile. Open the file *.trace.json.gz there" in result.out
    assert list(Path(run).rglob("profile/**/*.trace.json.gz"))
    assert "step 25/25" in result.out
    assert saved_steps(run) == [10, 20, 25]
    (line,) = map(json.loads, (Path(run) / "changes.jsonl").read_text().splitlines())
    assert line["step"] == 20
    assert line["changed"]["training.steps"] == {"before": 20, "now": 25}
    first, second = read_starts(run)
    assert first.command.startswith(shlex.join(["transformer", *command]))
    assert second.command.endswith("--training.patience 9 --average 1 --profile 3")
    assert first.dtype == resolve_dtype("auto")[0]
    assert (first.step, first.attention, first.backend, first.processes) == (0, "plain", jax.default_backend(), 1)
    assert (second.step, second.reason, first.differences(second)) == (20, None, [])
    assert second.ended is not None
    assert "Changed since the last start" not in result.out
    assert {"training.steps", "training.patience", "average"} <= set(line["changed"])
    assert (read_config(run).training.steps, read_config(run).average) == (25, 1)
    fewer = call(*command, "--run-dir", run, "--training.steps", "20")
    assert_refused(fewer, r"--training\.steps was 25 and is now 20, but 25 steps have already been made")


def test_a_trace_needs_steps_that_are_left(run, command):
    given = [*command, "--run-dir", run, "--training.steps", "25", "--training.patience", "9"]
    message = r"--profile 4 needs 6 steps, because the first 2 are not traced, but the run has 5 left\. Give a smaller"
    assert_refused(call(*given, "--profile", "4"), message)
    assert_refused(call(*given, "--profile", "0"), r"--profile must be at least 1, but is 0\. Give the number")
    assert saved_steps(run) == [10, 20]
    assert not (Path(run) / "changes.jsonl").exists()


def test_a_run_moves_with_its_data(run, corpus, command, tmp_path, monkeypatch):
    """The paths differ, and the files are plain instead of compressed, but the sentences are the same."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for file in corpus.glob("*.??"):
        shutil.copy(file, folder)
    monkeypatch.chdir(folder)
    moved = [*command[: command.index("--data.train")], "--run-dir", run]
    moved += ["--data.train", "train.en", "train.de", "--data.test", "test.en", "test.de"]
    validation = ["--data.validation", "val.en", "val.de"]
    result = call(*moved, *validation)
    assert (result.status, result.err) == (0, "")
    assert read_config(run).data.train == ("train.en", "train.de")
    assert_refused(call(*moved), r"started with validation pairs, .* Name them with --data\.validation")
    Path("val.de").write_text(Path("val.de").read_text().replace("hund", "katze"))
    before = (Path(run) / "config.json").read_bytes()
    assert_refused(call(*moved, *validation), r"validation pairs differ from those that the run in .* was started with")
    assert (Path(run) / "config.json").read_bytes() == before
    kept = read_validation_set(run, read_config(run).data)  # not the file in the current directory
    assert kept.targets == (corpus / "val.de").read_text().splitlines()
    (Path(run) / "validation.jsonl").write_text('{"en": "house", "de": "haus"}\n')
    assert_refused(call("tune", run), r"The validation pairs .* differ from those it was trained with")


def test_resumes_from_the_last_checkpoint_that_can_be_read(run, command, capfd):
    expected = load_params(run, [20])
    damage(Path(run) / "checkpoints" / "20")
    found = call("translate", run, stdin="red house\n")
    assert found.status == 0
    assert f"Using the checkpoint of step 10 of {run} because the checkpoint of step 20 cannot be read.\n" in found.err
    assert_refused(call("translate", run, "--checkpoint", "20", stdin="red house\n"), r"step 20 .* other steps: 10\.")
    result = call(*command, "--run-dir", run)
    assert (result.status, result.err) == (0, "")
    assert f"The checkpoint of step 20 is damaged. It was moved to {run}/damaged/20." in result.out
    assert "resuming from step 10\n" in result.out
    assert str(load_params(run, [20])) == str(expected)
    assert capfd.readouterr().err == ""  # no tracebacks of closed event loops


@pytest.mark.parametrize("writes", ["checkpoint_files.write_manifest", "training.metrics.MetricsLog.write"])
def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(run, command, monkeypatch, writes):
    def full(*_: object, **values: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"transformer.{writes}", full)
    result = call(*command, "--run-dir", run, "--training.steps", "25")
    assert (result.status, result.err) == (
        2,
        f"error: Could not write to the run directory {run} (No space left on device). Free some space, and run the "
        "same command again; it resumes from the last complete checkpoint, if any.\n",
    )
    assert saved_steps(run) == [10, 20]


def test_without_a_sound_checkpoint_nothing_is_moved(run, command):
    for step in (10, 20):
        (Path(run) / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").unlink()
    assert_refused(call(*command, "--run-dir", run), r"No checkpoint in .* can be read\.")
    assert not (Path(run) / "damaged").exists()
    assert_refused(call("translate", run, stdin="red\n"), r"The checkpoints of steps 10 and 20 cannot be read\.")


def test_a_checkpoint_beyond_the_last_step_is_refused(run, command):
    config = Path(run) / "config.json"
    config.write_text(config.read_text().replace('"steps": 20', '"steps": 15'))
    message = r"a checkpoint of step 20, beyond the 15 steps of its config\. "
    train = call(*command, "--run-dir", run, "--training.steps", "15")
    assert_refused(train, message + r"Raise --training\.steps")
    for arguments in (["translate", run], ["evaluate", run], ["evaluate", run, "--checkpoint", "best"]):
        assert_refused(call(*arguments, stdin="red\n"), message + "Choose a step with --checkpoint")
    assert call("translate", run, "--checkpoint", "20", stdin="red\n").status == 0

"""What `transformer train` does with its data before the first step."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_refused, call

from transformer import inputs
from transformer.data import token_cache
from transformer.training import loop


@pytest.fixture
def given(monkeypatch) -> list:
    """The training batches of each call, of which no step is made."""
    found = []
    monkeypatch.setattr(loop, "train", lambda config, batches, *_, **__: found.append(batches))
    return found


def test_a_second_start_reads_no_training_text(corpus, tmp_path, given, monkeypatch):
    command = ["train", "--config", f"{corpus}/tiny.py", "--run-dir", f"{tmp_path}/run"]
    command += ["--data.train", f"{corpus}/train.en", f"{corpus}/train.de"]
    first = call(*command)
    assert (first.status, first.err) == (0, "")
    for module in (inputs, token_cache):
        monkeypatch.setattr(module, "stream_pairs", pytest.fail)
    again = call(*command)
    assert (again.status, again.err) == (0, "")
    assert again.out.splitlines()[0] == first.out.splitlines()[0]
    for n in range(2 * given[0].per_epoch):
        np.testing.assert_array_equal(given[0][n].source, given[1][n].source)
    changed = tmp_path / "other.de"
    changed.write_text((corpus / "train.de").read_text().replace("hund", "katze"))
    monkeypatch.undo()
    before = {path: path.read_bytes() for path in Path(tmp_path / "run").rglob("*") if path.is_file()}
    other = [str(changed) if part.endswith("train.de") else part for part in command]
    assert_refused(call(*other), r"The train pairs differ from those that the run in .* was started with\. Restore")
    assert {path: path.read_bytes() for path in Path(tmp_path / "run").rglob("*") if path.is_file()} == before


def test_runs_share_a_cache(corpus, tmp_path, given, monkeypatch):
    made, original = [], token_cache.encode
    monkeypatch.setattr(token_cache, "encode", lambda *args: made.append(args) or original(*args))
    for run in ("one", "two"):
        command = ["train", "--config", f"{corpus}/tiny.py", "--run-dir", f"{tmp_path}/{run}", "--data.cache"]
        files = f"{corpus}/train.en", f"{corpus}/train.de"
        assert call(*command, f"{tmp_path}/cache", "--data.train", *files).status == 0
        assert not (tmp_path / run / "tokens").exists()
    assert len(made) == 1


def test_corpora_are_mixed_by_weight_and_counted(corpus, tmp_path, given):
    command = ["train", "--config", f"{corpus}/tiny.py", "--run-dir", f"{tmp_path}/run", "--data.train"]
    files = [f"{corpus}/{name}.{language}" for name in ("train", "val") for language in ("en", "de")]
    done = call(*command, *files, "--data.weights", "0.5", "3")
    assert (done.status, done.err) == (0, "")
    assert f"corpus {files[0]} {files[1]}: 200 pairs, 100 per epoch\n" in done.out
    assert f"corpus {files[2]} {files[3]}: 12 pairs, 36 per epoch\n" in done.out
    train = json.loads((tmp_path / "run" / "data.json").read_text())["train"]
    assert (train["read"], train["kept"], train["files"]) == (212, 212, files)
    assert train["corpora"] == [
        {"files": files[:2], "pairs": 200, "weight": 0.5, "per_epoch": 100},
        {"files": files[2:], "pairs": 12, "weight": 3.0, "per_epoch": 36},
    ]
    (batches,) = given
    ends = [sum((batches[n].source == 2).sum() for n in range(batches.per_epoch)) for _ in range(2)]
    assert ends == [136, 136]
    refused = call(*command, *files, "--data.weights", "1", "3")
    assert_refused(refused, r"--data\.weights was \(0\.5, 3\.0\) and is now \(1\.0, 3\.0\)")


def test_a_refused_input_leaves_only_what_can_be_continued(corpus, tmp_path, given, monkeypatch):
    run = tmp_path / "run"
    command = ["train", "--config", f"{corpus}/tiny.py", "--run-dir", str(run), "--data.train"]
    command += [f"{corpus}/train.en", f"{corpus}/train.de"]
    assert_refused(call(*command, "--training.batch-tokens", "2"), "A batch of 2 tokens is too small")
    assert not run.exists()
    monkeypatch.setattr(token_cache, "_SAVE_EVERY", 1)
    monkeypatch.setattr(token_cache, "require_pairs", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    message = r"Could not write the tokens to .*/run/tokens \(No space left\)\. Free some space, or give another folder"
    assert_refused(call(*command), message)
    assert [path.name for path in run.iterdir() if path.is_dir()] == ["tokens"]
    monkeypatch.undo()
    monkeypatch.setattr(loop, "train", lambda *_, **__: None)
    monkeypatch.setattr(token_cache, "encode", pytest.fail)  # what was tokenized is not tokenized again
    assert call(*command).status == 0

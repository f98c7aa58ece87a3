import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, Result, assert_refused, call, contents, write_corpus

from transformer import experiment, inputs
from transformer.config_files import from_json
from transformer.inference.results import read_scores
from transformer.interruption import Interrupted
from transformer.run_dir import hold_run, is_finished, read_config
from transformer.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_train_leaves_a_complete_run_directory(corpus, trained):
    run = corpus / "run"
    assert (trained.status, trained.err) == (0, "")
    assert "step 20/20  loss" in trained.out
    assert re.search(r"^compute dtype: (bfloat16|float32) \(.+\) on 1 device$", trained.out, re.MULTILINE)
    assert re.search(r"^Compiled \d+ programs? in .* Loaded \d+ from .*cache in .* s\.$", trained.out, re.MULTILINE)
    assert f"Everything is in {run}." in trained.out
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.json",
        "data.json",
        "hypotheses.txt",
        "metrics.jsonl",
        "scores.json",
        "starts.jsonl",
        "test.jsonl",
        "tokenizer.json",
        "tokens",
        "tokens.lock",
        "validation.jsonl",
    ]
    config = from_json((run / "config.json").read_text())
    assert (config.model.d_model, config.training.validation_bleu, config.run_dir) == (8, True, str(run))
    data = json.loads((run / "data.json").read_text())
    assert {split: report["kept"] for split, report in data.items()} == {"train": 200, "validation": 12, "test": 10}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["10", "20"]
    assert (run / "hypotheses.txt").read_bytes().count(b"\n") == 10
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "loss" in line] == [5, 10, 15, 20]
    validations = [line for line in metrics if "validation_loss" in line]
    assert [line["step"] for line in validations] == [10, 20]
    assert all(0 <= line["validation_bleu"] <= 100 for line in validations)
    scores = json.loads((run / "scores.json").read_text())
    assert "tok:13a" in scores["bleu"]["signature"]
    assert f"{scores['bleu']['score']:.2f}" in trained.out


@pytest.mark.parametrize(("option", "length"), [((), 32), (("--training.pack-length", "4"), 4)])
def test_rows_have_the_pack_length_and_longer_training_pairs_are_dropped(corpus, tmp_path, monkeypatch, option, length):
    given = []
    monkeypatch.setattr(loop, "train", lambda config, train, validation, *_, **__: given.extend([train, validation]))
    files = [
        f"--data.{split} {corpus}/{name}.en {corpus}/{name}.de"
        for split, name in (("train", "train"), ("validation", "val"))
    ]
    done = call(
        "train", "--config", f"{corpus}/tiny.py", "--run-dir", f"{tmp_path}/run", *" ".join(files).split(), *option
    )
    assert (done.status, done.err) == (0, "")
    (S, T, _), (validation_S, validation_T, _) = (batches.shape for batches in given)
    assert max(S, T) == length
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    ends = [sum((batches[n].source == 2).sum() for n in range(batches.per_epoch)) for batches in given]
    assert ends == [data["train"]["kept"], data["validation"]["kept"]]
    assert data["train"]["dropped"] == ({} if length == 32 else {"too long": 200 - data["train"]["kept"]})
    assert (data["train"]["kept"] == 200) == (length == 32)
    assert data["validation"]["kept"] == 12
    assert max(validation_S, validation_T) == 5  # four words and the end token, whatever the width of the training rows


def test_a_finished_run_says_so_without_reading_data(corpus, command, trained, monkeypatch):
    before = contents(corpus / "run")
    for name in ("read_pairs", "stream_pairs", "cached_tokens", "tokenize"):
        monkeypatch.setattr(inputs, name, pytest.fail)
    again = call(*command, "--run-dir", f"{corpus}/run")
    assert (again.status, again.err) == (0, "")
    assert again.out.startswith(f"The run in {corpus}/run is already finished. Its scores:\n")
    scores = read_scores(corpus / "run" / "scores.json").to_text()
    assert scores in again.out
    assert scores in trained.out
    assert f"Everything is in {corpus}/run." in again.out
    assert contents(corpus / "run") == before


@pytest.mark.parametrize("change", ["another search", "no scores", "unreadable scores"])
def test_a_trained_run_is_scored_again_if_its_scores_are_missing_or_of_another_config(run, command, change):
    scores = Path(run) / "scores.json"
    if change == "no scores":
        scores.unlink()
    elif change == "unreadable scores":
        scores.write_text('{"bleu": {"score": 1.0}}')
    option = ["--search.beam-size", "1"] if change == "another search" else []
    again = call(*command, "--run-dir", run, *option)
    assert (again.status, again.err) == (0, "")
    assert again.out.startswith(f"The run in {run} is already trained. Scoring its test set again.\n")
    assert "step " not in again.out
    assert read_scores(scores).to_text() in again.out
    assert "already finished" in call(*command, "--run-dir", run, *option).out


def test_scores_of_an_earlier_config_do_not_survive_an_interruption(run, command, monkeypatch):
    def interrupt(_: str) -> None:
        raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "load", interrupt)
        assert call(*command, "--run-dir", run, "--search.beam-size", "1").status == 128 + signal.SIGTERM
    assert read_config(run).search.beam_size == 1
    assert not (Path(run) / "scores.json").exists()


def test_an_unused_accelerator_is_named_once(command, run):
    advice = "A TPU is present, but JAX only sees the CPU."
    changed = [*command, "--run-dir", run, "--search.beam-size", "1"]
    assert call(*changed, advice=advice).out.splitlines().count(advice) == 1
    found = call("translate", run, stdin="red house\n", advice=advice)
    assert (found.status, found.err.splitlines()[1:]) == (0, [advice])


def test_a_run_that_diverges_says_so_and_is_finished(tmp_path, command):
    run = f"{tmp_path}/diverged"
    rate = ("--optimizer.schedule", "inverse_sqrt", "--optimizer.peak", "1e38", "--optimizer.warmup-steps", "1")
    result = call(*command, *rate, "--run-dir", run, "--training.log-every", "1")
    assert result.status == 2
    assert "Training diverged at step" in result.err
    assert (Path(run) / "diverged.txt").read_text() == result.err.removeprefix("error: ")
    assert is_finished(run)


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("--data.test", ["{}/test.en", "{}/none.de"], r"none\.de cannot be read: No such file or directory"),
        ("--data.train", ["{}/train.en", "{}/test.de"], r"train\.en has 200 lines, but .*test\.de has 10\. Line n"),
        ("--data.train", [], "No training pairs are given: name them with --data.train"),
        ("--model.vocabulary-size", ["5000"], r"only \d+ BPE tokens, fewer than --model\.vocabulary-size 5000\."),
        ("--model.num-heads", ["3"], r"--model\.d-model must be divisible by --model\.num-heads, but 8 is not"),
        ("--training.batch-tokens", ["2"], "A batch of 2 tokens is too small"),
        # Before any data are read.
        ("--parallel.fsdp", ["3", "--data.test", "{}/none.en", "{}/none.de"], "cannot have 1 device. Choose sizes"),
        ("--run-dir", ["{}"], "neither empty nor a run directory"),
    ],
)
def test_train_refuses_bad_input_and_leaves_no_trace(tmp_path, option, values, message):
    write_corpus(tmp_path)
    before = contents(tmp_path)
    given = {"--config": [f"{tmp_path}/tiny.py"], "--run-dir": [f"{tmp_path}/run"]}
    given["--data.train"] = [f"{tmp_path}/train.en", f"{tmp_path}/train.de"]
    given[option] = [value.format(tmp_path) for value in values]
    result = call("train", *(part for name, values in given.items() for part in (name, *values)))
    assert_refused(result, message)
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_evaluation_sets_with_empty_lines_are_refused_or_counted(tmp_path):
    write_corpus(tmp_path)
    for name in ("val.de", "test.en"):
        _, *others = (tmp_path / name).read_text().splitlines()
        (tmp_path / name).write_text("".join(f"{line}\n" for line in ("", *others)))
    command = ["train", "--config", f"{tmp_path}/tiny.py", "--run-dir", f"{tmp_path}/run", "--training.steps", "1"]
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        command += [f"--data.{split}", f"{tmp_path}/{name}.en", f"{tmp_path}/{name}.de"]
    assert_refused(call(*command), r"val\.de, line 1 has an empty target\. Fix .* --data\.allow-empty keeps such pairs")
    done = call(*command, "--data.allow-empty", "--training.validation-bleu")
    assert (done.status, done.err) == (0, "")
    for split in ("validation: 12", "test: 10"):
        pattern = rf"^{split} pairs read from .*; \d+ kept, 1 of them with an empty side\.$"
        assert re.search(pattern, done.out, re.MULTILINE)
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert {split: report["empty"] for split, report in data.items()} == {"train": 0, "validation": 1, "test": 1}
    hypotheses = (tmp_path / "run" / "hypotheses.txt").read_text().split("\n")
    assert (len(hypotheses), hypotheses[0]) == (11, "")


def test_a_run_directory_keeps_its_config_and_its_run(corpus, command, trained):
    before, again = contents(corpus), [*command, "--run-dir", f"{corpus}/run"]
    assert_refused(call(*again, "--model.d-ff", "32"), r"with another config: --model\.d-ff was 16 and is now 32")
    without_test = [*again[: again.index("--data.test")], "--run-dir", f"{corpus}/run"]
    assert_refused(call(*without_test), r"The run in .* was started with test pairs, .* Name them with --data\.test")
    assert contents(corpus) == before


def test_a_corpus_that_breaks_later_does_not_damage_the_run(corpus, command, trained):
    file, before = corpus / "test.de", contents(corpus / "run")
    text, times = file.read_bytes(), file.stat()
    file.write_bytes(text + b"one more\n")
    refused = call(*command, "--run-dir", f"{corpus}/run")
    file.write_bytes(text)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert_refused(refused, r"test\.en has 10 lines, but .*test\.de has 11")
    assert contents(corpus / "run") == before


def test_a_second_run_in_the_same_directory_is_refused(command, corpus, trained):
    before = contents(corpus / "run")
    with hold_run(corpus / "run"):
        result = call(*command, "--run-dir", f"{corpus}/run")
    assert_refused(result, r"^error: Another process is training in the run directory .*/run\. .* another --run-dir\.")
    assert contents(corpus / "run") == before


def test_train_py_in_a_process_of_its_own(tmp_path):
    """It trains the quickstart, whatever the working directory."""
    write_corpus(tmp_path)
    command = [sys.executable, str(ROOT / "train.py"), "--run-dir", str(tmp_path / "run")]
    files = ["--data.train", str(tmp_path / "train.en"), str(tmp_path / "missing.de")]
    result = subprocess.run([*command, *files], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    message = r"data\.train takes one split .*package:quickstart\.jsonl.* --data\.corpus files\."
    assert_refused(Result(result.returncode, result.stdout, result.stderr), message)
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_a_full_disk_loses_nothing_written_before(tmp_path):
    write_corpus(tmp_path)
    command = ["train", "--config", f"{tmp_path}/tiny.py", "--run-dir", f"{tmp_path}/run", "--no-compilation-cache"]
    command += ["--data.train", f"{tmp_path}/train.en", f"{tmp_path}/train.de"]
    # The shell limits the size of a file to 8 KiB. The tokenizer has 6 KiB, the arrays of a checkpoint more.
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", sys.executable, str(ROOT / "train.py"), *command[1:]]
    # The compilation cache of the tests is not used, because the limit would truncate its files.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    full = subprocess.run(limited, env=environment, capture_output=True, text=True, timeout=120)
    assert full.returncode == 2, full.stderr
    # Threads of orbax may print to stderr as well.
    (error,) = (line for line in full.stderr.splitlines() if line.startswith("error: "))
    assert re.search(r"Could not write to the run directory .*/run \(File too large\)\. .* it resumes from", error)
    again = call(*command)
    assert (again.status, again.err) == (0, "")
    assert "step 20/20" in again.out

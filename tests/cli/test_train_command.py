import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, Result, assert_refused, call, contents, write_corpus

from transformer.config_files import from_json
from transformer.run_dir import hold_run, is_finished
from transformer.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_train_leaves_a_whole_run_directory(corpus, trained):
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
        "test.jsonl",
        "tokenizer.json",
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
    assert max(validation_S, validation_T) == 5  # four words and the end, whatever the training rows are


def test_the_same_command_does_nothing_more(corpus, command, trained):
    before = contents(corpus / "run")
    again = call(*command, "--run-dir", f"{corpus}/run")
    assert (again.status, again.err) == (0, "")
    assert "step" not in again.out.replace("steps", "")
    assert contents(corpus / "run") == before


def test_an_unused_accelerator_is_named_once(corpus, command, trained):
    advice = "A TPU is present, but JAX only sees the CPU."
    assert call(*command, "--run-dir", f"{corpus}/run", advice=advice).out.splitlines().count(advice) == 1
    found = call("translate", f"{corpus}/run", stdin="red house\n", advice=advice)
    assert (found.status, found.err.splitlines()[1:]) == (0, [advice])


def test_a_run_that_diverges_says_so_and_is_at_its_end(tmp_path, command):
    run = f"{tmp_path}/diverged"
    rate = ("--optimizer.schedule", "inverse_sqrt", "--optimizer.peak", "1e38", "--optimizer.warmup-steps", "1")
    result = call(*command, *rate, "--run-dir", run, "--training.log-every", "1")
    assert result.status == 2
    assert "Training has diverged" in result.err
    assert (Path(run) / "diverged.txt").read_text() == result.err.removeprefix("error: ")
    assert is_finished(run)


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("--data.test", ["{}/test.en", "{}/none.de"], r"none\.de cannot be read: No such file or directory"),
        ("--data.train", ["{}/train.en", "{}/test.de"], r"train\.en has 200 lines, but .*test\.de has 10\. Line n"),
        ("--data.train", [], "No training pairs are given: name them with --data.train"),
        ("--model.vocabulary-size", ["5000"], r"only \d+ BPE tokens, fewer than --model\.vocabulary-size 5000\."),
        ("--model.num-heads", ["3"], "d_model must be divisible by model.num_heads, but 8 is not"),
        ("--training.batch-tokens", ["2"], "A batch of 2 tokens is too small"),
        ("--run-dir", ["{}"], "neither empty nor that of a run"),
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
    assert_refused(call(*again, "--model.d-ff", "32"), r"of another config: model\.d_ff is 16 there and 32 here")
    without_test = [*again[: again.index("--data.test")], "--run-dir", f"{corpus}/run"]
    assert_refused(call(*without_test), r"The run in .* has test pairs: name them with --data\.test")
    assert contents(corpus) == before


def test_a_corpus_that_breaks_later_harms_no_run(corpus, command, trained):
    file, before = corpus / "test.de", contents(corpus / "run")
    text = file.read_bytes()
    file.write_bytes(text + b"one more\n")
    assert_refused(call(*command, "--run-dir", f"{corpus}/run"), r"test\.en has 10 lines, but .*test\.de has 11")
    file.write_bytes(text)
    assert contents(corpus / "run") == before


def test_a_second_run_in_the_same_directory_is_refused(command, corpus, trained):
    before = contents(corpus / "run")
    with hold_run(corpus / "run"):
        result = call(*command, "--run-dir", f"{corpus}/run")
    assert_refused(result, r"^error: Another process is training in the run directory .*/run\. .* another --run-dir\.")
    assert contents(corpus / "run") == before


def test_train_py_in_a_process_of_its_own(tmp_path):
    """It starts from the quickstart, wherever it is called."""
    write_corpus(tmp_path)
    command = [sys.executable, str(ROOT / "train.py"), "--run-dir", str(tmp_path / "run")]
    files = ["--data.train", str(tmp_path / "train.en"), str(tmp_path / "missing.de")]
    result = subprocess.run([*command, *files], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    message = r"data\.train takes one split .*package:quickstart\.jsonl.* --data\.corpus files\."
    assert_refused(Result(result.returncode, result.stdout, result.stderr), message)
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_a_full_disk_loses_nothing_that_is_written(tmp_path):
    write_corpus(tmp_path)
    command = ["train", "--config", f"{tmp_path}/tiny.py", "--run-dir", f"{tmp_path}/run", "--no-compilation-cache"]
    command += ["--data.train", f"{tmp_path}/train.en", f"{tmp_path}/train.de"]
    # No file may be larger than this shell's limit, in KiB: the tokenizer has 6, a checkpoint's arrays more.
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", sys.executable, str(ROOT / "train.py"), *command[1:]]
    # Without the tests' compilation cache, in which the limit would leave cut programs.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    full = subprocess.run(limited, env=environment, capture_output=True, text=True, timeout=120)
    assert full.returncode == 2
    # Threads of orbax may have a word of their own on stderr.
    (error,) = (line for line in full.stderr.splitlines() if line.startswith("error: "))
    assert re.search(r"A checkpoint could not be written to .*/run/checkpoints \(.*\)\. .* goes on from", error)
    again = call(*command)
    assert (again.status, again.err) == (0, "")
    assert "step 20/20" in again.out

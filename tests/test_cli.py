import ast
import contextlib
import dataclasses
import fcntl
import gzip
import inspect
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import termios
import time
from dataclasses import is_dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from transformer.cli import COMMANDS, main
from transformer.config import Config
from transformer.config_files import from_json
from transformer.run_dir import hold_run, is_finished
from transformer.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).parents[1]
TINY = """
from transformer.config import *

config = Config(
    average=2,
    data=DataConfig(max_length=32),
    model=ModelConfig(
        vocabulary_size=300, d_model=8, num_heads=2, d_ff=16, num_encoder_layers=1, num_decoder_layers=1,
        max_positions=64,
    ),
    optimizer=OptimizerConfig(warmup_steps=10, scale=0.1),
    training=TrainingConfig(steps=20, validate_every=10, log_every=5, batch_tokens=512),
    search=SearchConfig(beam_size=2, extra_length=5),
)
"""
WORDS = {"dog": "hund", "man": "mann", "red": "rot", "sees": "sieht", "house": "haus", "old": "alt", "runs": "eilt"}


class Result(NamedTuple):
    status: int | str | None
    out: str
    err: str


def call(*arguments: str, stdin: str = "", advice: str | None = None) -> Result:
    """The command, as the shell would call it, in this process; `advice` is what it finds of unused accelerators."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        patch.setenv("COLUMNS", "120")
        for module in ("cli.decoding", "experiment"):
            patch.setattr(f"transformer.{module}.unused_accelerator", lambda: advice)
        patch.setattr("transformer.compilation.LONG", 600.0)  # so that a slow machine says no more than a fast one
        try:
            status = main(list(arguments))
        except SystemExit as exit:
            status = exit.code
    return Result(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def flat(text: str) -> str:
    """Text without boxes and line ends."""
    return " ".join("".join(" " if "─" <= letter <= "╿" else letter for letter in text).split())


def write_corpus(folder: Path) -> None:
    generator = random.Random(0)
    for split, pairs in (("train", 200), ("val", 12), ("test", 10)):
        sides = [], []
        for _ in range(pairs):
            words = generator.choices(list(WORDS), k=generator.randint(1, 4))
            sides[0].append(" ".join(words))
            sides[1].append(" ".join(WORDS[word] for word in words))
        for language, lines in zip(("en", "de"), sides, strict=True):
            data = "".join(f"{line}\n" for line in lines).encode()
            (folder / f"{split}.{language}").write_bytes(data)
            (folder / f"{split}.{language}.gz").write_bytes(gzip.compress(data))
    (folder / "tiny.py").write_text(TINY)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def command(corpus) -> list[str]:
    return [
        *("train", "--config", f"{corpus}/tiny.py", "--run-dir", f"{corpus}/run", "--training.validation-bleu"),
        *("--data.train", f"{corpus}/train.en.gz", f"{corpus}/train.de.gz"),
        *("--data.validation", f"{corpus}/val.en", f"{corpus}/val.de.gz"),
        *("--data.test", f"{corpus}/test.en", f"{corpus}/test.de"),
    ]


@pytest.fixture(scope="module")
def trained(command) -> Result:
    return call(*command)


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
    again = call(*command)
    assert (again.status, again.err) == (0, "")
    assert "step" not in again.out.replace("steps", "")
    assert contents(corpus / "run") == before


def test_an_unused_accelerator_is_named_once(corpus, command, trained):
    advice = "A TPU is present, but JAX only sees the CPU."
    assert call(*command, advice=advice).out.splitlines().count(advice) == 1
    found = call("translate", f"{corpus}/run", stdin="red house\n", advice=advice)
    assert (found.status, found.err.splitlines()[1:]) == (0, [advice])


def test_evaluate_finds_the_same_scores(corpus, trained):
    found = call("evaluate", f"{corpus}/run", "--json")
    assert found.status == 0
    assert re.fullmatch(r"compute dtype: (bfloat16|float32) \(.+\)\n", found.err)
    scores = json.loads(found.out)
    assert scores == json.loads((corpus / "run" / "scores.json").read_text())
    assert {"score", "signature"} <= set(scores["bleu"])
    assert 0 <= scores["chrf"]["score"] <= 100
    assert scores["loss"] > 0


def test_evaluate_other_files(corpus, trained):
    files = ("--source", f"{corpus}/val.en.gz", "--reference", f"{corpus}/val.de", "--output", f"{corpus}/out")
    options = ("--checkpoint", "20", "--average", "1", "--beam-size", "1", "--length-penalty", "0")
    found = call("evaluate", f"{corpus}/run", *files, *options)
    assert found.status == 0
    assert re.fullmatch(r"compute dtype: (bfloat16|float32) \(.+\)\n", found.err)
    assert "BLEU" in found.out
    assert (corpus / "out" / "hypotheses.txt").read_bytes().count(b"\n") == 12
    assert f"{json.loads((corpus / 'out' / 'scores.json').read_text())['bleu']['score']:.2f}" in found.out
    assert_refused(call("evaluate", f"{corpus}/run", "--output", f"{corpus}/out"), "out is there already")
    assert_refused(call("evaluate", f"{corpus}/run", "--output", f"{corpus}/no/out"), "out cannot be written")
    assert_refused(call("compare", f"{corpus}/run", f"{corpus}/out"), "the same test set can be compared")
    metrics = [json.loads(line) for line in (corpus / "run" / "metrics.jsonl").read_text().splitlines()]
    (loss,) = re.findall(r"^loss +(\S+)", found.out, re.MULTILINE)
    # Of the same pairs and parameters, in other shapes, to the precision of bfloat16.
    assert float(loss) == pytest.approx(metrics[-1]["validation_loss"], rel=2**-8)


def test_compare_says_what_two_evaluations_may_be_compared_in(corpus, trained, tmp_path):
    greedy = str(tmp_path / "greedy")
    options = ("--checkpoint", "10", "--beam-size", "1", "--output", greedy)
    assert call("evaluate", f"{corpus}/run", *options).status == 0
    found = call("compare", f"{corpus}/run", greedy, "--sentences", "1")
    assert (found.status, found.err) == (0, "")
    for said in (
        "Both are of the same 10 sentences, computed in one way: these numbers may be compared",
        "checkpoints is [10, 20] against [10].",
        "search.beam_size is 2 against 1.",
        "model.dtype is 'auto' against ",
    ):
        assert said in found.out
    assert re.findall(r"^(BLEU|chrF2|TER) .* p = [01]\.\d{3} ", found.out, re.MULTILINE) == ["BLEU", "chrF2", "TER"]
    (tmp_path / "greedy" / "hypotheses.txt").unlink()
    assert_refused(call("compare", f"{corpus}/run", greedy), r"hypotheses\.txt is missing: evaluate again")


def test_a_run_that_diverges_says_so_and_is_at_its_end(corpus, command):
    run = f"{corpus}/diverged"
    rate = ("--optimizer.schedule", "inverse_sqrt", "--optimizer.peak", "1e38", "--optimizer.warmup-steps", "1")
    result = call(*command, *rate, "--run-dir", run, "--training.log-every", "1")
    assert result.status == 2
    assert "Training has diverged" in result.err
    assert (Path(run) / "diverged.txt").read_text() == result.err.removeprefix("error: ")
    assert is_finished(run)


def test_translate_writes_a_line_for_each_line(corpus, trained):
    found = call("translate", f"{corpus}/run", stdin="old dog runs\n\nred house")
    assert found.status == 0
    assert re.fullmatch(r"compute dtype: (bfloat16|float32) \(.+\)\n", found.err)
    lines = found.out.split("\n")
    assert len(lines) == 4
    assert (lines[1], lines[3]) == ("", "")


def no_change(text: bytes) -> bytes:
    return text


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (None, [], r"train\.en cannot be read: No such file or directory"),
        (lambda text: text + b"one more\n", [], r"train\.en has 201 lines, but .*train\.de has 200: each line"),
        (lambda text: text.replace(b" ", b"\r", 1), [], r"train\.en, line \d+ has a carriage return"),
        (lambda text: b"one\n" + b"\xff" + text, [], r"train\.en, line 2 is not UTF-8 \(invalid start byte\)"),
        (lambda text: b"\n" + text.split(b"\n", 1)[1], [], r"train\.en, line 1 has an empty source"),
        (lambda text: b"", [], r"train\.en has 0 lines, but .*train\.de has 200"),
        (no_change, ["--data.train", "{}/empty.en", "{}/empty.de"], "There is no sentence pair to use"),
        (no_change, ["--data.train", "{}/train.en"], "For text with one sentence a line give two files"),
        (no_change, ["--data.train"], "No training pairs are given: name them with --data.train"),
        (no_change, ["--model.vocabulary-size", "5000"], "a vocabulary larger than the text allows: .* Set model.voc"),
        (no_change, ["--model.num-heads", "3"], "d_model must be divisible by model.num_heads, but 8 is not"),
        (no_change, ["--training.batch-tokens", "2"], "A batch of 2 tokens is too small"),
        (no_change, ["--tokenizer.file", "{}/none.json"], r"The tokenizer .*none\.json cannot be read: No such file"),
        (no_change, ["--run-dir", "{}/train.en"], r"The run directory .*train\.en is a file"),
        (no_change, ["--run-dir", "{}"], "neither empty nor that of a run"),
        (no_change, ["--config", "{}/none.py"], r"There is no config file .*none\.py"),
    ],
)
def test_train_refuses_bad_input_and_leaves_no_trace(tmp_path, damage, options, message):
    write_corpus(tmp_path)
    for language in ("en", "de"):
        (tmp_path / f"empty.{language}").touch()
    source = tmp_path / "train.en"
    if damage is None:
        source.unlink()
    else:
        source.write_bytes(damage(source.read_bytes()))
    before = contents(tmp_path)
    given = {"--config": [f"{tmp_path}/tiny.py"], "--run-dir": [f"{tmp_path}/run"]}
    given["--data.train"] = [f"{tmp_path}/train.en", f"{tmp_path}/train.de"]
    if options:
        given[options[0]] = [option.format(tmp_path) for option in options[1:]]
    result = call("train", *(part for name, values in given.items() for part in (name, *values)))
    assert_refused(result, message)
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


def assert_refused(result: Result, message: str) -> None:
    """Exit status 2, nothing on standard output that could be taken for a result, and a plain sentence."""
    assert result.status == 2
    assert "Traceback" not in result.err
    assert re.search(message, flat(result.err)), result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--model.d-modle", "8"], r"Unrecognized options: --model\.d-modle, 8 .* --model\.d-model INT"),
        (["train", "--model.norm", "group"], "invalid choice.* 'group'.*layer.*rms.*batch"),
        (["train", "--model.d-model", "many"], "d-model.*many"),
        (["train", "--config"], "Missing value for argument '--config'"),
        (["train", "--confg", "x.py"], "Unrecognized options: --confg, x.py .* --config"),
        (["train", "--config={}/none.py"], r"There is no config file .*none\.py"),
        (["trian"], f"There is no command trian; the commands are {', '.join(COMMANDS)}"),
        ([], "^$"),
        (["evaluate"], "RUN|run"),
        (["translate", "{}"], r"is not the directory of a run: it has no config\.json"),
        (["evaluate", "{}/nowhere"], r"nowhere is not the directory of a run: it has no config\.json"),
        (["evaluate", "{}/run", "--checkpoint", "15"], r"no checkpoint of step 15: .* those of the steps 10, 20\."),
        (["evaluate", "{}/run", "--checkpoint", "first"], "checkpoint.*first"),
        (["evaluate", "{}/run", "--average", "3"], "3 checkpoints cannot be averaged: .* of the steps 10, 20"),
        (["evaluate", "{}/run", "--beam-size", "0"], "search.beam_size must be at least 1, but is 0"),
        (["evaluate", "{}/run", "--beem-size", "1"], "Unrecognized options: --beem-size, 1 .* --beam-size"),
        (["evaluate", "{}/run", "--source", "{}/val.en"], "--source and --reference go together"),
        (["evaluate", "{}/run", "--reference", "{}/val.de"], "--source and --reference go together"),
        (["evaluate", "{}/run", "--source", "{}/val.en", "--reference", "{}/test.de"], "val.en has 12 lines, but"),
    ],
)
def test_commands_refuse_bad_arguments(corpus, trained, arguments, message):
    before = contents(corpus)
    assert_refused(call(*(argument.format(corpus) for argument in arguments)), message)
    assert contents(corpus) == before


def test_translate_counts_lines_by_their_ends_alone(corpus, trained):
    lines = [
        "old dog",
        "",
        "a\rb",
        "nul \0 nul",
        "u\u2028v\x0bw\x85x",
        "😀 👩‍👩‍👧",
        "שלום מרחבא",
        "\ufeffman",
        "dog " * 500,
    ]
    result = call("translate", f"{corpus}/run", "--long-input", "split", "--beam-size", "1", stdin="\n".join(lines))
    assert result.status == 0
    assert result.out.count("\n") == len(lines)
    assert "\r" not in result.out
    refused = call("translate", f"{corpus}/run", stdin="\n".join(lines))
    assert_refused(refused, r"Line 9 has \d+ tokens, but the model has positions for 64")


def test_a_line_of_100_000_characters_is_translated_in_pieces(corpus, trained):
    options = ("--long-input", "split", "--beam-size", "1", "--jsonl", "--alignments")
    result = call("translate", f"{corpus}/run", *options, stdin="old dog runs. " * 7_200 + "\nred house\n")
    assert result.status == 0
    long, short = (json.loads(line) for line in result.out.splitlines())
    assert len(long["source"]) > 100_000
    assert long["translations"][0]["alignment"] is None
    assert long["translations"][0]["tokens"] > 500
    assert len(short["translations"][0]["alignment"]) == len(short["translations"][0]["target_pieces"])


def test_translate_refuses_what_it_cannot_write(corpus, trained):
    assert_refused(call("translate", f"{corpus}/run", "--num-best", "2"), "--num-best 2 needs --jsonl")
    assert_refused(call("translate", f"{corpus}/run", "--alignments"), "--alignments needs --jsonl")
    assert_refused(call("translate", f"{corpus}/run", "--top-k", "5"), "they need search.sample")
    pieces = ("--prefix", "der", "--long-input", "split")
    assert_refused(call("translate", f"{corpus}/run", *pieces), "search.prefix would begin each piece of a line")
    lengths = ("--min-length", "5", "--max-length", "4")
    assert_refused(call("translate", f"{corpus}/run", *lengths), "search.min_length .5. must not exceed")
    for name, message in (
        ("run@first", "named RUN@STEP, RUN@best or RUN@last"),
        ("run@15", "no checkpoint of step 15"),
    ):
        assert_refused(call("translate", f"{corpus}/run", "--ensemble", f"{corpus}/{name}"), message)


def test_translate_to_json(corpus, trained):
    options = ("--jsonl", "--num-best", "2", "--alignments", "--ensemble", f"{corpus}/run@last")
    found = call("translate", f"{corpus}/run", *options, stdin="old dog runs\n\nred house\n")
    assert found.status == 0
    records = [json.loads(line) for line in found.out.splitlines()]
    assert [record["source"] for record in records] == ["old dog runs", "", "red house"]
    plain = call("translate", f"{corpus}/run", stdin="old dog runs\n\nred house\n").out.splitlines()
    assert [record["translations"][0]["text"] for record in records] == plain
    for record in records:
        scores = [translation["score"] for translation in record["translations"]]
        assert scores == sorted(scores, reverse=True)
        for translation in record["translations"]:
            assert len(translation["alignment"]) == len(translation["target_pieces"])
            assert max(translation["alignment"]) < len(translation["source_pieces"])
            assert translation["source_pieces"][-1] == "</s>"


def test_ctrl_c_leaves_whole_lines(corpus, trained):
    start = "import sys; from transformer.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "translate", f"{corpus}/run", "--jsonl"]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdin.write((b" " * 20_000 + b"\n") * 10)
        program.stdin.close()
        ready, before = 0, -1
        while ready == 0 or ready != before:  # until nothing more fits into the pipe: the program waits within a line
            time.sleep(0.5)
            filled = fcntl.ioctl(program.stdout, termios.FIONREAD, bytes(4))
            ready, before = int.from_bytes(filled, sys.byteorder), ready
        program.send_signal(signal.SIGINT)
        time.sleep(0.5)
        written, said = program.stdout.read().decode(), program.stderr.read().decode()
    assert program.returncode == 130
    assert said.endswith("Interrupted.\n")
    assert written.endswith("\n")
    sources = [json.loads(line)["source"] for line in written.splitlines()]
    assert 0 < len(sources) < 10
    assert set(sources) == {" " * 20_000}


def test_score_gives_each_pair_its_probability(corpus, trained):
    files = ("--source", f"{corpus}/test.en", "--target", f"{corpus}/test.de")
    totals = [float(line) for line in call("score", f"{corpus}/run", *files).out.splitlines()]
    records = [json.loads(line) for line in call("score", f"{corpus}/run", *files, "--tokens").out.splitlines()]
    assert len(totals) == len(records) == 10
    for total, record in zip(totals, records, strict=True):
        assert record["pieces"][-1] == "</s>"
        assert len(record["pieces"]) == len(record["log_probabilities"])
        assert total == pytest.approx(sum(record["log_probabilities"]), abs=1e-3)
    assert_refused(call("score", f"{corpus}/run", *files[:2]), "Scoring needs --source and --target")
    other = ("--source", f"{corpus}/val.en", "--target", f"{corpus}/test.de")
    assert_refused(call("score", f"{corpus}/run", *other), "val.en has 12 lines, but .*test.de has 10")


def test_a_run_directory_keeps_its_config_and_its_run(corpus, command, trained):
    before = contents(corpus)
    assert_refused(call(*command, "--model.d-ff", "32"), r"of another config: model\.d_ff is 16 there and 32 here")
    assert_refused(call(*command, "--data.test"), r"of another config: data\.test is .*test\.de.* there and \(\) here")
    assert contents(corpus) == before


def test_a_corpus_that_breaks_later_harms_no_run(corpus, command, trained):
    file, before = corpus / "test.de", contents(corpus / "run")
    text = file.read_bytes()
    file.write_bytes(text + b"one more\n")
    assert_refused(call(*command), r"test\.en has 10 lines, but .*test\.de has 11")
    file.write_bytes(text)
    assert contents(corpus / "run") == before


def test_help_shows_every_field_with_its_meaning():
    result = call("train", "--help")
    assert result.status == 0
    shown = flat(result.out)
    fields = [("", field) for field in fields_of(Config)]
    for part in ("data", "tokenizer", "model", "optimizer", "training", "search"):
        fields += [(f"{part}.", field) for field in fields_of(type(getattr(Config(), part)))]
    assert len(fields) > 60
    for prefix, (name, meaning) in fields:
        assert re.search(rf"--{prefix}{name.replace('_', '-')}[ ,]", shown), name
        assert " ".join(meaning.replace("`", "").split()[:3]) in shown.replace("`", ""), name


def fields_of(config_class: type) -> list[tuple[str, str]]:
    """Each field of a config that is no config itself, and the text below it."""
    (definition,) = ast.parse(inspect.getsource(config_class)).body
    assert isinstance(definition, ast.ClassDef)
    meanings = {}
    for parts in itertools.pairwise(definition.body):
        match parts:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                meanings[name] = text
    plain = [field.name for field in dataclasses.fields(config_class) if not is_dataclass(field.default_factory)]
    return [(name, meanings[name]) for name in plain]


def test_train_py_in_a_process_of_its_own(tmp_path):
    write_corpus(tmp_path)
    command = [sys.executable, str(ROOT / "train.py"), "--run-dir", str(tmp_path / "run")]
    files = [str(tmp_path / "train.en"), str(tmp_path / "missing.de")]
    data = ["--data.corpus", "files", "--data.train", *files]
    for arguments, message in (
        (data, r"^error: .*missing\.de cannot be read: No such file or directory\.$"),
        ([*data, "--training.step", "5"], r"Unrecognized options: --training\.step, 5 .* --training\.steps INT"),
        (["--data.train", *files], r"data\.train takes one split .*package:quickstart\.jsonl.* --data\.corpus files\."),
    ):
        result = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert_refused(Result(result.returncode, result.stdout, result.stderr), message)
        assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_a_full_disk_loses_nothing_that_is_written(tmp_path):
    write_corpus(tmp_path)
    command = [sys.executable, str(ROOT / "train.py"), "--config", "tiny.py", "--no-compilation-cache"]
    command += ["--run-dir", "run", "--data.train", "train.en", "train.de", "--data.test", "test.en", "test.de"]
    # No file may be larger than this shell's limit, in KiB: the tokenizer has 6, a checkpoint's arrays more.
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *command]
    # Without the tests' compilation cache, in which the limit would leave cut programs.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    settings = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    full = subprocess.run(limited, **settings)
    assert full.returncode == 2
    # Threads of orbax may have a word of their own on stderr.
    (error,) = (line for line in full.stderr.splitlines() if line.startswith("error: "))
    assert re.search(r"A checkpoint could not be written to .*/run/checkpoints \(.*\)\. .* goes on from", error)
    again = subprocess.run(command, **settings)
    assert (again.returncode, again.stderr) == (0, "")
    assert "step 20/20" in again.stdout


def test_a_second_run_in_the_same_directory_is_refused(command, corpus, trained):
    before = contents(corpus / "run")
    with hold_run(corpus / "run"):
        result = call(*command)
    assert_refused(result, r"^error: Another process is training in the run directory .*/run\. .* another --run-dir\.")
    assert contents(corpus / "run") == before


def test_attention_shows_where_each_piece_looks(corpus, trained):
    run, source, target = str(corpus / "run"), "old dog", "alt hund"
    for kind, looking, looked_at in (
        ("cross", "<s> alt hund", "old dog </s>"),
        ("encoder", "old dog </s>", "old dog </s>"),
        ("decoder", "<s> alt hund", "<s> alt hund"),
    ):
        result = call("attention", run, "--source", source, "--target", target, "--kind", kind, "--layer", "0")
        assert (result.status, result.err.splitlines()[1:]) == (0, [])
        lines = [line.split() for line in result.out.splitlines()]
        assert "".join(line[0] for line in lines) == looking.replace(" ", "")
        pieces = {piece for line in lines for piece in line[1::2]}
        assert all(piece in looked_at for piece in pieces)
        assert all(float(weight) <= 1 for line in lines for weight in line[2::2])
        if kind == "decoder":
            assert lines[0][:3] == ["<s>", "<s>", "1.00"]  # the first position sees nothing else
    joined = call("attention", run, "--source", source, "--target", target, "--words", "--word", "HUND", "--head", "1")
    assert joined.status == 0
    assert re.fullmatch(r"head 1(  +(old|dog|</s>) [01]\.\d\d){3}\n", joined.out)
    rollout = call("attention", run, "--source", source, "--target", target, "--kind", "rollout")
    assert rollout.status == 0
    assert "".join(line.split()[0] for line in rollout.out.splitlines()) == "olddog</s>"


def test_attention_writes_pages_and_pictures(corpus, trained, tmp_path):
    run = str(corpus / "run")
    pair = ("--source", "old dog", "--target", "alt hund")
    for name, options, begins in (
        ("view.html", ["--kind", "encoder", "--head", "1"], b"<!doctype html>"),
        ("grid.svg", [], b"<?xml"),
        ("its.png", ["--figure", "its", "--source", "its old dog"], b"\x89PNG"),
    ):
        file = tmp_path / name
        result = call("attention", run, *pair, "--output", str(file), *options)
        assert (result.status, result.out) == (0, "")
        assert file.read_bytes().startswith(begins)
    for name, said in (
        ("view.svg", ["The pictures' font does not have 狗: a page (.html) shows them."]),
        ("view.html", []),
    ):
        result = call("attention", run, "--source", "old dog", "--target", "狗", "--output", f"{tmp_path}/{name}")
        assert (result.status, result.err.splitlines()[1:]) == (0, said)


def test_attention_refuses_what_it_cannot_show(corpus, trained, tmp_path):
    run, before = str(corpus / "run"), contents(tmp_path)
    pair = ("--source", "old dog", "--target", "alt hund")
    for arguments, message in (
        (["--source", " "], r"A sentence is needed to look at: give it with --source\."),
        ([*pair[:2], "--target", " "], "A sentence is needed to look at, but the target is empty"),
        ([*pair, "--layer", "1"], "There is no layer 1: of this kind the run has 1, counted from 0"),
        ([*pair, "--head", "-1"], "There is no head -1: of this kind the run has 2, counted from 0"),
        ([*pair, "--head", "2", "--output", f"{tmp_path}/view.html"], "There is no head 2"),
        ([*pair, "--kind", "sideways"], "invalid choice.* 'sideways'"),
        ([*pair, "--words", "--word", "katze"], "The word katze is not among those that look: <s> alt hund"),
        (
            [*pair, "--figure", "making", "--output", f"{tmp_path}/x.svg"],
            "The word making is not among those that look",
        ),
        ([*pair, "--output", f"{tmp_path}/view.pdf"], r"must end in \.html, \.png, \.svg, but it is .*view\.pdf"),
        (
            [*pair, "--output", f"{tmp_path}/nowhere/view.html"],
            r"nowhere/view\.html cannot be written: .* a directory that there is",
        ),
        (["--source", "dog " * 90], r"The source has \d+ tokens, but the model has positions for 64"),
    ):
        assert_refused(call("attention", run, *arguments), message)
    for command in (["attention", run, *pair, "--output", f"{tmp_path}/x.png"], ["figures", "--output", str(tmp_path)]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "matplotlib", None)
            for name in [name for name in sys.modules if name.startswith("transformer.analysis.figures")]:
                patch.delitem(sys.modules, name)
            patch.delattr("transformer.analysis.figures", raising=False)
            refused = call(*command)
        assert_refused(refused, r"Pictures need matplotlib: pip install 'transformer-jax\[plot\]'")
    assert contents(tmp_path) == before


def test_heads_measures_each_head(corpus, trained):
    run = str(corpus / "run")
    table = call("heads", run, "--sentences", "4")
    assert (table.status, table.err.splitlines()[1:]) == (0, [])
    of_heads, of_pronouns = table.out.split("\n\n")
    assert of_pronouns.startswith("Pronouns: the test set names no antecedents")
    lines = [line.split() for line in of_heads.splitlines()]
    assert [line[:3] for line in lines[1:]] == [
        [kind, "0", head] for kind in ("encoder", "decoder", "cross") for head in ("0", "1")
    ]
    heads = json.loads(call("heads", run, "--sentences", "4", "--json").out)
    assert heads["pronouns"] == {}
    assert [f"{head['entropy']:.2f}" for head in heads["heads"]] == [line[3] for line in lines[1:]]
    assert_refused(call("heads", run, "--sentences", "0"), "--sentences must be at least 1, but is 0")


def test_figures_draws_the_lecture_and_a_run(corpus, trained, tmp_path):
    names = ["position_curves", "position_heat_map", "position_dot_products", "warmup"]
    small = ["--d-model", "8", "--length", "9", "--schedules", "8:10"]
    for runs, options, suffix in (([], [], "png"), ([f"{corpus}/run"], ["--format", "svg"], "svg")):
        folder = tmp_path / suffix / "new"
        result = call("figures", *runs, "--output", str(folder), *small, *options)
        assert (result.status, result.err) == (0, "")
        expected = [
            folder / f"{name}.{suffix}" for name in (*names, *(["learning_rates", "learning_curves"] * len(runs)))
        ]
        assert result.out.splitlines() == [*map(str, expected)]
        assert sorted(folder.iterdir()) == sorted(expected)
    assert "validation BLEU" in (tmp_path / "svg/new/learning_curves.svg").read_text()


def test_figures_refuses_what_it_cannot_draw(corpus, trained, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.json").write_bytes((corpus / "run/config.json").read_bytes())
    before = contents(tmp_path)
    for arguments, message in (
        ([f"{tmp_path}/nowhere"], r"nowhere is not the directory of a run: it has no config\.json"),
        ([f"{corpus}/run", f"{tmp_path}/begun"], "The run in .*begun has not logged a training loss yet: wait for it"),
        (["--d-model", "7"], r"Sinusoidal positions need an even model\.d_model, but it is 7"),
        (["--length", "1"], "--length must lie between 2 and 4,096, but is 1"),
        (
            ["--schedules", "512:0"],
            "A schedule is written d_model:warm-up steps, such as 512:4000, but 512:0 was given",
        ),
        (["--format", "pdf"], "invalid choice.* 'pdf'"),
        (["--output", f"{tmp_path}/begun/config.json"], "File exists"),
    ):
        output = [] if "--output" in arguments else ["--output", f"{tmp_path}/pictures"]
        assert_refused(call("figures", *arguments, *output), message)
    assert contents(tmp_path) == before


def test_export_writes_the_search_and_what_a_caller_must_know(corpus, trained, tmp_path):
    run, file = str(corpus / "run"), tmp_path / "search"
    result = call("export", run, str(file), "--longest", "20", "--num-best", "2")
    assert (result.status, result.err) == (0, "compute dtype: float32 (as configured)\n")
    assert f"{file}: " in result.out
    about = json.loads((tmp_path / "search.json").read_text())
    assert (about["max_length"], about["search"]["beam_size"], about["search"]["num_best"]) == (20, 2, 2)
    assert (tmp_path / "search.tokenizer.json").read_bytes() == (corpus / "run" / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search", "search.json", "search.tokenizer.json"]
    before = contents(tmp_path)
    for arguments, message in (
        (["--sample"], r"search\.sample draws translations at random"),
        (["--longest", "65"], "between 1 and 64 tokens, the positions of the model, but 65"),
    ):
        assert_refused(call("export", run, str(file), *arguments), message)
    assert_refused(call("export", run, str(tmp_path / "nowhere" / "search")), "a directory that there is")
    assert_refused(call("export", run), "FILE|file")
    assert contents(tmp_path) == before


def test_evaluate_watches_a_run_to_its_end(corpus, trained, monkeypatch):
    run = str(corpus / "run")
    first = call("evaluate", run, "--watch")
    assert (first.status, len(first.err.splitlines())) == (0, 1)
    assert [line.split(": BLEU ")[0] for line in first.out.splitlines()] == ["step 10", "step 20"]
    again = call("evaluate", run, "--watch")
    assert (again.status, again.out) == (0, "")
    for arguments, message in (
        (["--checkpoint", "10"], "--checkpoint is for one evaluation"),
        (["--json"], "--json is for one evaluation"),
        (["--interval", "0"], "--interval must be positive, in seconds, but is 0"),
    ):
        assert_refused(call("evaluate", run, "--watch", *arguments), message)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transformer.inference.watch.time.sleep", interrupt)
    monkeypatch.setattr("transformer.inference.watch.is_finished", lambda _: False)
    assert call("evaluate", run, "--watch")[::2] == (130, again.err + "Interrupted.\n")


def test_tune_finds_a_beam_and_a_penalty(corpus, trained):
    run = str(corpus / "run")
    options = ("--beams", "1", "2", "--alphas", "0", "1", "--candidates", "4")
    first = call("tune", run, *options)
    assert first.status == 0
    table = [line.split() for line in first.out.splitlines()[1:-1]]
    assert [row[:3] for row in table] == [
        *(["1", "wu", "0.00"], ["2", "wu", "0.00"], ["2", "wu", "1.00"], ["2", "power", "1.00"]),
    ]
    assert table[0][4] == "100.0%"
    assert "The highest BLEU has --beam-size " in first.out
    assert first.err.splitlines()[1:] == ["beam 1: searched", "beam 2: searched"]
    again = call("tune", run, *options)
    assert (again.out, again.err.splitlines()[1:]) == (first.out, ["beam 1: kept", "beam 2: kept"])
    assert_refused(call("tune", run, "--source", f"{corpus}/val.en"), "--source and --reference go together")
    assert_refused(call("tune", run, "--beams", "0"), "--beams must be at least 1")

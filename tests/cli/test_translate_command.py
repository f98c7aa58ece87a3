import fcntl
import json
import re
import select
import signal
import subprocess
import sys
import termios
import time

import jax
import pytest
from command_line import assert_refused, call

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_translate_writes_a_line_for_each_line(corpus, trained):
    found = call("translate", f"{corpus}/run", stdin="old dog runs\n\nred house")
    assert found.status == 0
    assert re.fullmatch(r"compute dtype: (bfloat16|float32) \(.+\)\n", found.err)
    lines = found.out.split("\n")
    assert len(lines) == 4
    assert (lines[1], lines[3]) == ("", "")


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
    result = call("translate", f"{corpus}/run", "--beam-size", "1", stdin="\n".join(lines))
    assert result.status == 0
    assert re.search(
        r"^Line 9 has more tokens than the model has positions, so it is translated in \d+ chunks\.$", result.err, re.M
    )
    assert result.err.count("Line ") == 1
    assert result.out.count("\n") == len(lines)
    assert "\r" not in result.out
    refused = call("translate", f"{corpus}/run", "--long-input", "refuse", stdin="\n".join(lines))
    assert_refused(refused, r"Line 9 has \d+ tokens, but the model has positions for 64")


def test_a_line_of_100_000_characters_is_translated_in_chunks(corpus, trained):
    options = ("--beam-size", "1", "--jsonl", "--alignments")
    result = call("translate", f"{corpus}/run", *options, stdin="old dog runs. " * 7_200 + "\nred house\n")
    assert result.status == 0
    long, short = (json.loads(line) for line in result.out.splitlines())
    assert len(long["source"]) > 100_000
    assert long["translations"][0]["alignment"] is None
    assert long["translations"][0]["tokens"] > 500
    assert len(short["translations"][0]["alignment"]) == len(short["translations"][0]["target_tokens"])


def test_translate_refuses_what_it_cannot_write(corpus, trained):
    assert_refused(call("translate", f"{corpus}/run", "--num-best", "2"), "--num-best 2 needs --jsonl")
    assert_refused(call("translate", f"{corpus}/run", "--alignments"), "--alignments needs --jsonl")
    prefixed = call("translate", f"{corpus}/run", "--prefix", "der", stdin="dog\n" + "dog " * 500)
    assert_refused(prefixed, r"Line 2 has \d+ tokens, .* or leave out --prefix, which would begin the tr")
    for name, message in (
        ("run@first", "run@first names no checkpoint. Write RUN@STEP, RUN@best or RUN@last"),
        ("run@15", "Cannot find the checkpoint of step 15"),
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
            assert len(translation["alignment"]) == len(translation["target_tokens"])
            assert max(translation["alignment"]) < len(translation["source_tokens"])
            typed = [record["source"][start:end] for start, end in translation["source_offsets"]]
            assert typed == [*translation["source_tokens"][:-1], ""]
            assert translation["source_tokens"][-1] == "</s>"


def start(run, *options):
    """Starts `transformer translate` as a separate process with pipes."""
    code = "import sys; from transformer.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "translate", run, *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("end", "options"), [("close", ()), ("interrupt", ("--jsonl", "--alignments"))])
def test_a_program_that_asks_line_by_line_is_answered(corpus, trained, end, options):
    with start(f"{corpus}/run", *options) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        for line in ("old dog", "", "red\u00a0\u200bhouse"):
            program.stdin.write(f"{line}\n".encode())
            program.stdin.flush()
            ready, _, _ = select.select([program.stdout], [], [], 60)
            assert ready
            answer = program.stdout.readline()
            assert answer.endswith(b"\n")
            assert not options or json.loads(answer)["source"] == line
        if end == "close":
            program.stdin.close()
        else:  # while a thread waits for more input
            program.send_signal(signal.SIGINT)
        assert program.wait(60) == (0 if end == "close" else 130)
        assert program.stdout.read() == b""
        assert "Fatal" not in program.stderr.read().decode()


def test_lines_before_one_that_is_no_text_are_translated(corpus, trained):
    with start(f"{corpus}/run") as program:
        out, err = program.communicate(b"old dog\nred house\n\xff\n", 60)
    assert program.returncode == 2
    assert out.count(b"\n") == 2
    assert err.decode().endswith(
        "standard input, line 3 is not UTF-8 (invalid start byte). Convert the text to UTF-8, for example with iconv.\n"
    )


def test_ctrl_c_leaves_whole_lines(corpus, trained):
    program = start(f"{corpus}/run", "--jsonl")
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


@pytest.mark.parametrize("function", ["decoding._search", "forced_decoding.token_log_probabilities"])
def test_a_device_without_memory_for_a_batch(corpus, trained, monkeypatch, function):
    """One sentence on standard error, after the one about the compute dtype, whichever thread the exception is from."""

    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nbuffer assignment: ..."
        )

    monkeypatch.setattr(f"transformer.inference.{function}", fail)
    for command in ("translate", "evaluate") if function == "decoding._search" else ("evaluate",):
        found = call(command, f"{corpus}/run", stdin="red house\n")
        advice = "Lower --batch-tokens .* or --beam-size, or stop other processes on the device"
        assert_refused(found, rf"error: The device is out of memory \(Out of memory allocating 8 bytes\)\. {advice}")
        assert (found.out, found.err.count("\n")) == ("", 2)


def test_score_gives_each_pair_its_probability(corpus, trained):
    files = ("--source", f"{corpus}/test.en", "--target", f"{corpus}/test.de")
    totals = [float(line) for line in call("score", f"{corpus}/run", *files).out.splitlines()]
    records = [json.loads(line) for line in call("score", f"{corpus}/run", *files, "--tokens").out.splitlines()]
    assert len(totals) == len(records) == 10
    for total, record in zip(totals, records, strict=True):
        assert record["target_tokens"][-1] == "</s>"
        assert len(record["target_tokens"]) == len(record["log_probabilities"])
        assert total == pytest.approx(sum(record["log_probabilities"]), abs=1e-3)
    assert_refused(call("score", f"{corpus}/run", *files[:2]), "--target is missing: line n of --target must translate")
    other = ("--source", f"{corpus}/val.en", "--target", f"{corpus}/test.de")
    assert_refused(call("score", f"{corpus}/run", *other), "val.en has 12 lines, but .*test.de has 10")


def test_export_writes_the_search_and_what_a_caller_must_know(corpus, trained, tmp_path):
    run, file = str(corpus / "run"), tmp_path / "search"
    result = call("export", run, str(file), "--longest", "20", "--num-best", "2")
    assert (result.status, result.err) == (0, "compute dtype: float32 (as configured)\n")
    assert f"{file}: " in result.out
    about = json.loads((tmp_path / "search.json").read_text())
    assert (about["max_length"], about["search"]["beam_size"], about["search"]["num_best"]) == (20, 2, 2)
    assert (tmp_path / "search.tokenizer.json").read_bytes() == (corpus / "run" / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search", "search.json", "search.tokenizer.json"]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert_refused(call("export", run, str(file), "--sample"), r"Sampling cannot be exported, only a beam search")
    assert_refused(
        call("export", run, str(tmp_path / "nowhere" / "search")), "is not a directory. Give a file in one that exists"
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

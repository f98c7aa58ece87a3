import json
import re

import pytest
from command_line import assert_refused, call

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_evaluate_finds_the_same_scores(corpus, trained):
    found = call("evaluate", f"{corpus}/run", "--json")
    assert found.status == 0
    assert re.fullmatch(r"compute dtype: (bfloat16|float32) \(.+\)\n", found.err)
    scores = json.loads(found.out)
    assert scores == json.loads((corpus / "run" / "scores.json").read_text())
    assert {"score", "signature"} <= set(scores["bleu"])
    assert 0 <= scores["chrf"]["score"] <= 100
    assert scores["loss"] > 0


def test_evaluate_other_files(corpus, trained, tmp_path):
    out = tmp_path / "out"
    files = ("--source", f"{corpus}/val.en.gz", "--reference", f"{corpus}/val.de", "--output", str(out))
    options = ("--checkpoint", "20", "--average", "1", "--beam-size", "1", "--length-penalty", "0")
    found = call("evaluate", f"{corpus}/run", *files, *options)
    assert found.status == 0
    assert re.fullmatch(r"compute dtype: (bfloat16|float32) \(.+\)\n", found.err)
    assert "BLEU" in found.out
    assert (out / "hypotheses.txt").read_bytes().count(b"\n") == 12
    assert f"{json.loads((out / 'scores.json').read_text())['bleu']['score']:.2f}" in found.out
    assert_refused(call("evaluate", f"{corpus}/run", "--output", str(out)), "out is there already")
    assert_refused(call("evaluate", f"{corpus}/run", "--output", f"{tmp_path}/no/out"), "out cannot be written")
    assert_refused(call("compare", f"{corpus}/run", str(out)), "the same test set can be compared")
    metrics = [json.loads(line) for line in (corpus / "run" / "metrics.jsonl").read_text().splitlines()]
    (loss,) = re.findall(r"^loss +(\S+)", found.out, re.MULTILINE)
    # Of the same pairs and parameters, in other shapes, to the precision of bfloat16.
    assert float(loss) == pytest.approx(metrics[-1]["validation_loss"], rel=2**-8)


def test_evaluate_splits_a_line_that_is_too_long_and_says_so(corpus, trained, tmp_path):
    source, reference = tmp_path / "long.en", tmp_path / "long.de"
    source.write_text("old dog\n" + "red house. " * 50 + "\n")
    reference.write_text("alt hund\nrot haus\n")
    files = ("--source", str(source), "--reference", str(reference), "--beam-size", "1")
    found = call("evaluate", f"{corpus}/run", *files)
    assert found.status == 0
    assert "translated in segments, so there is no loss" in found.err
    assert_refused(
        call("evaluate", f"{corpus}/run", *files, "--long-input", "refuse"), r"has \d+ tokens, but the model"
    )


def test_evaluate_in_another_compute_type(corpus, trained, tmp_path):
    out = tmp_path / "out"
    found = call("evaluate", f"{corpus}/run", "--dtype", "float32", "--output", str(out))
    assert (found.status, found.err) == (0, "compute dtype: float32 (as configured)\n")
    assert json.loads((out / "evaluation.json").read_text())["config"]["model"]["dtype"] == "float32"


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


def test_evaluate_watches_a_run_to_its_end(run, monkeypatch):
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


def test_tune_finds_a_beam_and_a_penalty(corpus, run):
    options = ("--beams", "1", "2", "--alphas", "0", "1", "--candidates", "4")
    first = call("tune", run, *options)
    assert first.status == 0
    table = [line.split() for line in first.out.splitlines()[1:-1]]
    assert [row[:3] for row in table] == [
        *(["1", "wu", "0.00"], ["2", "wu", "0.00"], ["2", "wu", "1.00"], ["2", "power", "1.00"]),
    ]
    assert "The highest BLEU has --beam-size " in first.out
    assert len(first.err.splitlines()) == 1  # the compute type
    assert_refused(call("tune", run, "--source", f"{corpus}/val.en"), "--source and --reference go together")
    assert_refused(call("tune", run, "--beams", "0"), "--beams must be at least 1")

import gzip
import json
import re

import pytest
from command_line import assert_refused, call

from transformer.inference.results import read_result
from transformer.runtime import resolve_dtype

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_evaluate_finds_the_same_scores(corpus, trained):
    found = call("evaluate", f"{corpus}/run", "--json")
    assert found.status == 0
    assert re.fullmatch(r"compute dtype: (bfloat16|float32) \(.+\)\n", found.err)
    scores = json.loads(found.out)
    evaluation = scores.pop("evaluation")
    assert scores == json.loads((corpus / "run" / "scores.json").read_text())
    assert {"score", "signature"} <= set(scores["bleu"])
    assert 0 <= scores["chrf"]["score"] <= 100
    assert scores["loss"] > 0
    assert len(scores["bleu"]["precisions"]) == 4
    assert {"brevity_penalty", "translation_length", "reference_length"} <= set(scores["bleu"])
    assert scores["bleu"]["tokenizer"] == "13a"
    assert (evaluation["run"], evaluation["checkpoints"], evaluation["average"]) == (f"{corpus}/run", [10, 20], 2)
    assert evaluation["search"]["beam_size"] == 2
    assert evaluation["dtype"] in ("bfloat16", "float32")
    assert (evaluation["ensemble"], evaluation["test_set"]["sentences"]) == ([], 10)
    assert (evaluation["test_set"]["references"], evaluation["test_set"]["with_an_empty_side"]) == (1, 0)


def test_evaluate_computes_the_requested_metrics(corpus, trained):
    options = ("--metrics", "chrf", "bleu", "--tokenize", "char", "--lowercase", "--chrf-word-order", "2")
    found = call("evaluate", f"{corpus}/run", "--json", *options, "--beam-size", "1")
    assert found.status == 0
    scores = json.loads(found.out)
    assert "|case:lc|eff:no|tok:char|" in scores["bleu"]["signature"]
    assert scores["chrf"]["name"] == "chrF2++"
    assert ("ter" in scores, scores["bleu"]["tokenizer"]) == (False, "char")
    assert scores["evaluation"]["search"]["beam_size"] == 1
    assert_refused(call("evaluate", f"{corpus}/run", "--tokenize", "13b"), "invalid choice.*13b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
        refused = call("evaluate", f"{corpus}/run", "--tokenize", "ja-mecab")
    assert_refused(refused, r"pip install 'sacrebleu\[ja\]'")


def test_evaluate_reads_what_training_reads(corpus, trained, tmp_path):
    """The same pairs give the same scores in every format and in a mixture of formats."""
    sources, targets = ((corpus / f"val.{side}").read_text().splitlines() for side in ("en", "de"))
    pairs, run = list(zip(sources, targets, strict=True)), f"{corpus}/run"
    (tmp_path / "x.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    rows = "".join(f"{json.dumps({'en': source, 'de': target})}\n" for source, target in pairs)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    text = ("--source", f"{corpus}/val.en", "--reference", f"{corpus}/val.de")
    expected = json.loads(call("evaluate", run, *text, "--json", "--metrics", "chrf").out)
    for files in (
        ("--source", f"{tmp_path}/x.tsv", "--reference", f"{tmp_path}/x.tsv"),
        ("--source", f"{tmp_path}/x.jsonl.gz"),
        ("--source", f"{corpus}/val.en", "--reference", f"{tmp_path}/x.tsv"),
    ):
        found = call("evaluate", run, *files, "--json", "--metrics", "chrf")
        assert (found.status, json.loads(found.out)) == (0, expected)
    for files, message in (
        (("--source", f"{corpus}/val.en"), "--source and --reference go together"),
        (("--reference", f"{tmp_path}/x.tsv"), "--source and --reference go together"),
        (("--source", f"{corpus}/val.en", "--reference", f"{corpus}/test.de"), r"val\.en has 12 lines, but .* has 10"),
        (("--source", f"{corpus}/test.en", "--reference", f"{corpus}/test.de", f"{corpus}/val.de"), "has 12"),
    ):
        assert_refused(call("evaluate", run, *files), message)


def test_several_references_and_empty_lines(corpus, trained, tmp_path):
    run, out, second = f"{corpus}/run", str(tmp_path / "out"), str(tmp_path / "second")
    lines = (corpus / "test.de").read_text().splitlines()
    (tmp_path / "b.de").write_text("".join(f"der {line}\n" for line in lines))
    files = ("--source", f"{corpus}/test.en", "--reference", f"{corpus}/test.de", f"{tmp_path}/b.de")
    found = call("evaluate", run, *files, "--json", "--output", out)
    assert found.status == 0
    scores = json.loads(found.out)
    assert all(scores[name]["signature"].startswith("nrefs:2|") for name in ("bleu", "chrf", "ter"))
    assert scores["evaluation"]["test_set"]["references"] == 2
    kept = read_result(out)
    assert (kept.pairs.targets, kept.pairs.further_references) == (lines, ([f"der {line}" for line in lines],))
    assert call("evaluate", run, *files, "--beam-size", "1", "--output", second).status == 0
    assert "nrefs:2|" in call("compare", out, second).out
    compared = json.loads(call("compare", run, second, "--json", "--reference", *files[3:]).out)
    assert set(compared["metrics"]) == {"BLEU", "chrF2", "TER"}
    assert all(metric["signature"].startswith("nrefs:2|") for metric in compared["metrics"].values())
    assert compared["metrics"]["BLEU"]["first"] == pytest.approx(scores["bleu"]["score"])
    assert len(compared["changes"][0]["references"] if compared["changes"] else [1, 2]) == 2
    assert_refused(
        call("compare", run, second, "--reference", f"{corpus}/val.de"), "12 references, but .* 10 sentences"
    )
    assert_refused(call("compare", run, out), "they did not translate the same test set")
    tuned = call("tune", run, *files, "--beams", "1", "--alphas", "0", "--candidates", "1")
    assert tuned.status == 0

    (tmp_path / "gap.en").write_text("old dog\n\nred man\n")
    (tmp_path / "gap.de").write_text("alt hund\nhaus\n\n")
    gaps = ("--source", f"{tmp_path}/gap.en", "--reference", f"{tmp_path}/gap.de")
    assert_refused(call("evaluate", run, *gaps), r"gap\.en, line 2 has an empty source\. .* --allow-empty keeps")
    found = call("evaluate", run, *gaps, "--allow-empty", "--json", "--output", str(tmp_path / "gaps"))
    assert found.status == 0
    assert "2 of 3 pairs have an empty side." in found.err
    assert json.loads(found.out)["evaluation"]["test_set"]["with_an_empty_side"] == 2
    assert read_result(tmp_path / "gaps").hypotheses[1] == ""


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
    assert_refused(call("evaluate", f"{corpus}/run", "--output", str(out)), "out already exists")
    assert_refused(call("evaluate", f"{corpus}/run", "--output", f"{tmp_path}/no/out"), "Cannot write .*out: ")
    assert_refused(call("compare", f"{corpus}/run", str(out)), "they did not translate the same test set")
    metrics = [json.loads(line) for line in (corpus / "run" / "metrics.jsonl").read_text().splitlines()]
    (loss,) = re.findall(r"^loss +(\S+)", found.out, re.MULTILINE)
    # The pairs and parameters are the same and the shapes differ, so the losses agree to the precision of bfloat16.
    assert float(loss) == pytest.approx(metrics[-1]["validation_loss"], rel=2**-8)


def test_evaluate_splits_a_line_that_is_too_long_and_says_so(corpus, trained, tmp_path):
    source, reference = tmp_path / "long.en", tmp_path / "long.de"
    source.write_text("old dog\n" + "red house. " * 50 + "\n")
    reference.write_text("alt hund\nrot haus\n")
    files = ("--source", str(source), "--reference", str(reference), "--beam-size", "1")
    found = call("evaluate", f"{corpus}/run", *files)
    assert found.status == 0
    assert "No loss is computed: a line is longer than the model's positions" in found.err
    assert_refused(
        call("evaluate", f"{corpus}/run", *files, "--long-input", "refuse"), r"has \d+ tokens, but the model"
    )


def test_evaluate_in_another_compute_dtype(corpus, trained, tmp_path):
    out = tmp_path / "out"
    found = call("evaluate", f"{corpus}/run", "--dtype", "float32", "--output", str(out))
    assert (found.status, found.err) == (0, "compute dtype: float32 (as configured)\n")
    assert json.loads((out / "evaluation.json").read_text())["config"]["model"]["dtype"] == "float32"


def test_a_run_is_evaluated_in_the_type_that_it_was_not_trained_in(corpus, command, trained, tmp_path):
    """Whatever the device prefers: parameters are float32, and either type computes on every backend."""
    preferred, _ = resolve_dtype("auto")
    (other,) = {"bfloat16", "float32"} - {preferred}
    options = ("--model.dtype", other, "--training.steps", "4")
    assert call(*command, "--run-dir", f"{tmp_path}/run", *options).status == 0
    for run, dtype in ((corpus / "run", other), (tmp_path / "run", preferred)):
        own = json.loads((run / "scores.json").read_text())
        found = call("evaluate", str(run), "--json", "--dtype", dtype)
        assert (found.status, found.err) == (0, f"compute dtype: {dtype} (as configured)\n")
        assert json.loads(found.out)["loss"] == pytest.approx(own["loss"], rel=2**-8)
        translated = call("translate", str(run), "--dtype", dtype, stdin="red house\n")
        assert (translated.status, translated.out.count("\n")) == (0, 1)


def test_compare_says_which_scores_can_be_compared(corpus, trained, tmp_path):
    greedy = str(tmp_path / "greedy")
    options = ("--checkpoint", "10", "--beam-size", "1", "--output", greedy)
    assert call("evaluate", f"{corpus}/run", *options).status == 0
    found = call("compare", f"{corpus}/run", greedy, "--sentences", "1")
    assert (found.status, found.err) == (0, "")
    for said in (
        "Both runs translated the same 10 sentences. The scores below and those that the runs reported",
        "checkpoints is [10, 20] in the first and [10] in the second.",
        "search.beam_size is 2 in the first and 1 in the second.",
        "model.dtype is 'auto' in the first and ",
    ):
        assert said in found.out
    assert re.findall(r"^(BLEU|chrF2|TER) .* [+-]\d+\.\d\d +[01]\.\d{3}  nrefs:1", found.out, re.MULTILINE) == [
        "BLEU",
        "chrF2",
        "TER",
    ]
    (tmp_path / "greedy" / "hypotheses.txt").unlink()
    assert_refused(
        call("compare", f"{corpus}/run", greedy), r"hypotheses\.txt is missing\. Remove the folder and evaluate"
    )


def test_compare_takes_checkpoints(run, monkeypatch):
    assert_refused(call("compare", run, f"{run}@30"), "Cannot find the checkpoint of step 30")
    assert_refused(
        call("compare", run, f"{run}@first"), "run@first names no checkpoint. Write RUN@STEP, RUN@best or RUN@last"
    )
    found = call("compare", f"{run}@10", f"{run}@last", "--metrics", "chrf", "--json")
    assert found.status == 0
    assert f"Translating the test set with {run}@10." in found.err
    values = json.loads(found.out)
    assert (values["names"], values["sentences"]) == ([f"{run}@10", f"{run}@last"], 10)
    assert list(values["metrics"]) == ["chrF2"]
    assert "checkpoints is [10] in the first and [10, 20] in the second." in values["caveats"]
    same = json.loads(call("compare", run, f"{run}@last", "--json").out)  # what the run has kept of the same model
    assert same["different_translations"] == 0
    assert same["metrics"]["BLEU"]["difference"] == 0
    assert call("evaluate", run, "--watch", "--interval", "0.1").status == 0
    monkeypatch.setattr("transformer.cli.compare.load_members", None)  # nothing is translated again
    kept = call("compare", f"{run}@10", f"{run}@20", "--json")
    assert (kept.status, kept.err) == (0, "")


def test_evaluate_watches_a_run_to_its_end(run, monkeypatch):
    first = call("evaluate", run, "--watch")
    assert (first.status, len(first.err.splitlines())) == (0, 1)
    assert [line.split(": BLEU ")[0] for line in first.out.splitlines()] == ["step 10", "step 20"]
    again = call("evaluate", run, "--watch")
    assert (again.status, again.out) == (0, "")
    for arguments, message in (
        (["--average", "2"], "Step 10 in .*evaluation was scored with --average 1. Give another folder with --output"),
        (["--checkpoint", "10"], "--checkpoint cannot be combined with --watch"),
        (["--json"], "--json cannot be combined with --watch"),
        (["--interval", "0"], r"--interval must be positive and at most a day \(86,400 seconds\), but is 0"),
        (["--interval", "nan"], "--interval must be positive and at most a day"),
    ):
        assert_refused(call("evaluate", run, "--watch", *arguments), message)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transformer.inference.watch.time.sleep", interrupt)
    monkeypatch.setattr("transformer.inference.watch.is_finished", lambda _: False)
    waits = "waiting for a checkpoint after step 20 (checking every 30 s)\n"
    assert call("evaluate", run, "--watch")[::2] == (130, f"{again.err}{waits}Interrupted.\n")


def test_tune_finds_a_beam_and_a_penalty(corpus, run):
    options = ("--beams", "1", "2", "--alphas", "0", "1", "--candidates", "4", "--tokenize", "char")
    first = call("tune", run, *options)
    assert first.status == 0
    table = [line.split() for line in first.out.splitlines()[1:-1]]
    assert [row[:3] for row in table] == [
        *(["1", "wu", "0.00"], ["2", "wu", "0.00"], ["2", "wu", "1.00"], ["2", "power", "1.00"]),
    ]
    assert "Highest BLEU: --beam-size " in first.out
    assert len(first.err.splitlines()) == 1  # the compute dtype
    assert_refused(call("tune", run, "--source", f"{corpus}/val.en"), "--source and --reference go together")
    assert_refused(call("tune", run, "--beams", "0"), "--beams must be at least 1")

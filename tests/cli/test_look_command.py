import json
import re
import sys

import pytest
from command_line import assert_refused, call, contents

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_attention_shows_the_keys_of_each_query(corpus, trained):
    run, source, target = str(corpus / "run"), "old dog", "alt hund"
    for kind, queries, keys in (
        ("cross", "<s> alt hund", "old dog </s>"),
        ("encoder", "old dog </s>", "old dog </s>"),
        ("decoder", "<s> alt hund", "<s> alt hund"),
    ):
        result = call("attention", run, "--source", source, "--target", target, "--kind", kind, "--layer", "0")
        assert (result.status, result.err.splitlines()[1:]) == (0, [])
        heading, *rows = result.out.splitlines()
        assert re.search(r", layer 0, mean of 2 heads: the keys that each query attends to most", heading)
        lines = [line.split() for line in rows]
        assert "".join(line[0] for line in lines) == queries.replace(" ", "")
        tokens = {token for line in lines for token in line[1::2]}
        assert all(token in keys for token in tokens)
        assert all(float(weight) <= 1 for line in lines for weight in line[2::2])
        if kind == "decoder":
            assert lines[0][:3] == ["<s>", "<s>", "1.00"]  # the first position attends to nothing else
    joined = call("attention", run, "--source", source, "--target", target, "--words", "--word", "HUND", "--head", "1")
    assert joined.status == 0
    assert re.fullmatch(r"cross-attention, layer 0: .*\nhead 1(  +(old|dog|</s>) [01]\.\d\d){3}\n", joined.out)
    rollout = call("attention", run, "--source", source, "--target", target, "--kind", "rollout")
    assert rollout.status == 0
    assert "".join(line.split()[0] for line in rollout.out.splitlines()[1:]) == "olddog</s>"


def test_attention_writes_pages_and_pictures(corpus, trained, tmp_path):
    run = str(corpus / "run")
    for name, source, options, begins in (
        ("view.html", "old dog", ["--kind", "encoder", "--head", "1"], b"<!doctype html>"),
        ("grid.svg", "old dog", [], b"<?xml"),
        ("its.png", "its old dog", ["--figure", "its"], b"\x89PNG"),
    ):
        file = tmp_path / name
        result = call("attention", run, "--source", source, "--target", "alt hund", "--output", str(file), *options)
        assert (result.status, result.out) == (0, "")
        assert file.read_bytes().startswith(begins)
    for name, said in (
        ("view.svg", ["The picture's font has no glyphs for 狗. Use --output FILE.html."]),
        ("view.html", []),
    ):
        result = call("attention", run, "--source", "old dog", "--target", "狗", "--output", f"{tmp_path}/{name}")
        assert (result.status, result.err.splitlines()[1:]) == (0, said)


def test_attention_refuses_what_it_cannot_show(corpus, trained, tmp_path):
    run, before = str(corpus / "run"), contents(tmp_path)
    pair = ("--source", "old dog", "--target", "alt hund")
    for arguments, message in (
        (["--source", " "], r"The source sentence is missing\. Give it with --source\."),
        ([*pair[:2], "--target", " "], "The target sentence is empty"),
        ([*pair, "--layer", "1"], r"Kind cross has no layer 1, only layer 0\."),
        ([*pair, "--kind", "sideways"], "invalid choice.* 'sideways'"),
        (
            [*pair, "--figure", "making", "--output", f"{tmp_path}/x.svg"],
            "making is not one of the query tokens",
        ),
        (
            [*pair, "--output", f"{tmp_path}/nowhere/view.html"],
            r"Cannot write \S+nowhere/view\.html: \S+nowhere is not a directory\. Give",
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
        assert_refused(refused, r"Pictures need matplotlib\. Install it with pip install 'transformer-jax\[plot\]'")
    assert contents(tmp_path) == before


def test_heads_measures_each_head(corpus, trained):
    run = str(corpus / "run")
    table = call("heads", run, "--sentences", "4")
    assert (table.status, table.err.splitlines()[1:]) == (0, [])
    of_heads, legend, of_pronouns = table.out.split("\n\n")
    assert [line.split()[0] for line in legend.splitlines()] == [
        *("entropy", "distance", "previous", "same", "next", "boundary", "ablation"),
    ]
    assert of_pronouns.startswith("Pronouns: not measured, because the test set names no antecedents")
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


def test_figures_refuses_what_it_cannot_draw(tmp_path):
    (tmp_path / "file").touch()
    before = contents(tmp_path)
    for arguments, message in (
        (["--length", "1"], "--length must be between 2 and 4,096, but is 1"),
        (
            ["--schedules", "512:0"],
            "--schedules takes d_model:warmup_steps, such as 512:4000, but got 512:0",
        ),
        (["--d-model", "7"], "Sinusoidal positions need an even --d-model, but it is 7"),
        (["--format", "pdf"], "invalid choice.* 'pdf'"),
        (["--output", f"{tmp_path}/file"], f"^error: File exists: {tmp_path}/file$"),
    ):
        output = [] if "--output" in arguments else ["--output", f"{tmp_path}/pictures"]
        assert_refused(call("figures", *arguments, *output), message)
    assert contents(tmp_path) == before

"""`--engine ctranslate2` and `--to ctranslate2`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, Result, assert_refused, call, contents

pytest.importorskip("ctranslate2", reason="needs ctranslate2 (the extra interop)")
pytestmark = pytest.mark.usefixtures("quick_compilation")
LINES = "old dog runs\n\nred house sees the man\n"
ENGINE = ("--engine", "ctranslate2", "--jsonl")


def translated(result: Result) -> list[dict]:
    assert result.status == 0, result.err
    return [json.loads(line)["translations"][0] for line in result.out.splitlines()]


def test_a_converted_model_is_kept_beside_the_run(run: str) -> None:
    first = call("translate", run, *ENGINE, stdin=LINES)
    expected = translated(call("translate", run, "--dtype", "float32", "--jsonl", stdin=LINES))
    assert first.err == "compute dtype: float32 (CTranslate2)\n"
    for found, own in zip(translated(first), expected, strict=True):
        assert found == own | {"score": pytest.approx(own["score"], abs=1e-3)}

    (model,) = Path(run, "ctranslate2").iterdir()
    before, written = contents(model), (model / "model.bin").stat().st_mtime_ns
    assert call("translate", run, *ENGINE, stdin=LINES) == first
    assert (model / "model.bin").stat().st_mtime_ns == written

    damaged = bytearray(before[model / "model.bin"])
    damaged[len(damaged) // 2] ^= 1
    (model / "model.bin").write_bytes(damaged)
    assert call("translate", run, *ENGINE, stdin=LINES) == first
    assert contents(model) == before

    other = call("translate", run, *ENGINE, "--checkpoint", "10", stdin=LINES)
    assert translated(other) != translated(first)
    assert len([*Path(run, "ctranslate2").iterdir()]) == 2


def test_a_run_that_cannot_be_written_to(run: str, corpus: Path) -> None:
    expected = translated(call("translate", run, *ENGINE, "--beam-size", "1", stdin=LINES))
    before = contents(corpus / "run")
    Path(run, "ctranslate2").rename(f"{run}/converted")
    Path(run, "ctranslate2").write_text("no folder")
    result = call("translate", run, *ENGINE, "--beam-size", "1", stdin=LINES)
    assert translated(result) == expected
    assert f"Cannot keep the converted model in {run}/ctranslate2 (File exists)." in result.err
    assert contents(corpus / "run") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--min-length", "3"),
            r"^compute .* error: CTranslate2 does not support --min-length \(it is 3\)\. Use --engine jax",
        ),
        (("--forbidden", "dog"), r"does not support --forbidden \(it is \('dog',\)\)"),
        (("--sample",), r"does not support --sample"),
        (("--num-best", "3"), r"--num-best \(3\) must not exceed --beam-size \(2\)"),
        (("--alignments",), r"^error: CTranslate2 does not support --alignments\. Use --engine jax"),
        (("--ensemble", "elsewhere"), r"does not support --ensemble"),
        (("--dtype", "bfloat16"), r"CTranslate2 cannot compute in bfloat16 on this cpu, only in .*float32"),
    ],
)
def test_what_the_engine_refuses(run: str, options: tuple[str, ...], message: str) -> None:
    assert_refused(call("translate", run, *ENGINE, *options, stdin="dog\n"), message)


@pytest.mark.parametrize("name", ["translate", "export"])
def test_without_the_package(run: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    options = {"translate": ENGINE, "export": ("exported", "--to", "ctranslate2")}[name]
    advice = r"needs the package ctranslate2\. Install it with: pip install 'transformer-jax\[interop\]'$"
    assert_refused(call(name, run, *options, stdin="dog\n"), advice)


def test_the_dtypes_of_ctranslate2_need_it(run: str) -> None:
    refused = call("translate", run, "--dtype", "int8", stdin="dog\n")
    assert_refused(refused, r"^error: --dtype int8 needs --engine ctranslate2\.$")


def test_a_script_translates_with_an_exported_model(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    done = call("export", run, str(folder), "--to", "ctranslate2")
    assert (done.status, done.out[: len(f"{folder}: a CTranslate2")]) == (0, f"{folder}: a CTranslate2"), done.err
    files = {"config.json", "model.bin", "shared_vocabulary.json", "tokenizer.json"}
    assert {file.name for file in folder.iterdir()} == files
    script = [sys.executable, str(ROOT / "examples" / "run_ctranslate2.py"), str(folder)]
    found = subprocess.run(script, input=LINES, capture_output=True, text=True, timeout=300)
    search = ("--beam-size", "4", "--length-penalty", "0.6", "--length-penalty-form", "power")
    expected = call("translate", run, "--engine", "ctranslate2", *search, stdin=LINES)
    assert (found.stdout, found.stderr) == (expected.out, "")
    assert_refused(call("export", run, str(folder), "--to", "ctranslate2"), "it already exists")

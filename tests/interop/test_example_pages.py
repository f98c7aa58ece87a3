"""The commands of the pages in examples/, which print what the pages say."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import ROOT, call

pytestmark = pytest.mark.usefixtures("quick_compilation")


def commands(page: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "examples" / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def run(command: str) -> str:
    """Runs `transformer ...` or `echo "..." | transformer ...`."""
    piped, _, piping = command.rpartition(" | ")
    stdin = f"{shlex.split(piped)[1]}\n" if piped else ""
    result = call(*shlex.split(piping)[1:], stdin=stdin)
    assert result.status == 0, result.err
    return result.out


def test_marian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentencepiece")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    imported, translated, exported = map(run, commands("marian.md"))
    assert imported.endswith("runs/marian-tiny: a marian model with 232,424 parameters\n")
    assert translated == "Die billige Lampe sollte blau sein.\n"
    assert exported == "marian-tiny: a folder for Marian, with 86 weights\n"
    assert {path.name for path in Path("marian-tiny").iterdir()} == {"model.npz", "model.npz.decoder.yml", "vocab.spm"}


def test_ctranslate2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sentencepiece", "ctranslate2"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    _, translated, in_int8, exported = map(run, commands("ctranslate2.md"))
    assert translated == in_int8 == "Die billige Lampe sollte blau sein.\n"
    assert len([*Path("runs/marian-tiny/ctranslate2").iterdir()]) == 1
    assert exported == "marian-tiny-ct2: a CTranslate2 model with 232,424 parameters\n"

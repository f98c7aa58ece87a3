"""The commands of the pages in examples/, which print what the pages say."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ROOT, call

pytestmark = pytest.mark.usefixtures("quick_compilation")
TRANSLATION = "Die billige Lampe sollte blau sein.\n"


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


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What the commands of the first page print. The other pages use its run, in the same folder."""
    pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("examples")
    (folder / "tests").symlink_to(ROOT / "tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield [*map(run, commands("marian.md"))]


def test_marian(outputs: list[str]) -> None:
    imported, translated, exported = outputs
    assert imported.endswith("runs/marian-tiny: a marian model with 232,424 parameters\n")
    assert translated == TRANSLATION
    assert exported == "marian-tiny: a folder for Marian, with 86 weights\n"
    assert {path.name for path in Path("marian-tiny").iterdir()} == {"model.npz", "model.npz.decoder.yml", "vocab.spm"}


@pytest.mark.usefixtures("outputs")
def test_hugging_face() -> None:
    """`tests/parity` runs the example's script, which needs PyTorch."""
    exported, imported, translated = map(run, commands("hugging-face.md"))
    assert exported.startswith("marian-tiny-hf: 2.0 MB, for transformers.MarianMTModel\n")
    assert imported.endswith("runs/marian-tiny-hf: a hf-marian model with 232,489 parameters\n")
    assert translated == TRANSLATION


@pytest.mark.usefixtures("outputs")
def test_ctranslate2() -> None:
    pytest.importorskip("ctranslate2")
    translated, in_int8, exported = map(run, commands("ctranslate2.md"))
    assert translated == in_int8 == TRANSLATION
    assert len([*Path("runs/marian-tiny/ctranslate2").iterdir()]) == 1
    assert exported == "marian-tiny-ct2: a CTranslate2 model with 232,424 parameters\n"

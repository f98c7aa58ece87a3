import lzma
import os
import subprocess
import sys

import pytest

import make
from splits import SIZES


def test_the_file_of_the_package_is_what_the_generator_produces():
    # Another hash seed changes the iteration order of sets, which must not matter.
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, make.__file__, "--check"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{make.FILE} is what the generator produces.\n"
    assert make.FILE.stat().st_size < 1_500_000


@pytest.fixture
def few_lines(monkeypatch, tmp_path):
    """A corpus of ten pairs, and its file in another folder."""
    for split, size in (("train", 6), ("validation", 2), ("test", 2)):
        monkeypatch.setitem(SIZES, split, size)
    monkeypatch.setattr(make, "FILE", tmp_path / "few.jsonl.xz")
    return [*make.lines()]


def test_writing_is_deterministic_and_passes_its_check(few_lines, monkeypatch, capsys):
    written = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["make.py"])
        assert make.main() == 0
        written.append(make.FILE.read_bytes())
    assert written[0] == written[1]
    assert lzma.decompress(written[0]).decode() == "".join(f"{line}\n" for line in few_lines)
    monkeypatch.setattr(sys, "argv", ["make.py", "--check"])
    assert make.main() == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("{", "[", 1), "line 1 differs from what the generator produces"),
        (lambda text: text[: text.rindex("{")], "line 10 differs from what the generator produces"),
        (lambda text: f"{text}{{}}\n", "line 11 differs from what the generator produces"),
        (lambda text: text.rstrip("\n"), "line 10 differs from what the generator produces"),
        (lambda text: f"{text}{{}}", "ends in the middle of a line"),
    ],
)
def test_any_other_text_fails_the_check(few_lines, monkeypatch, capsys, change, message):
    make.FILE.write_bytes(make.compress(change("".join(f"{line}\n" for line in few_lines))))
    monkeypatch.setattr(sys, "argv", ["make.py", "--check"])
    assert make.main() == 1
    error = capsys.readouterr().err
    assert message in error
    assert "python tools/grammar/make.py" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"no xz"])
def test_a_file_that_cannot_be_read_fails_the_check(few_lines, monkeypatch, capsys, content):
    if content is not None:
        make.FILE.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["make.py", "--check"])
    assert make.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("Could not read ")
    assert "few.jsonl.xz" in error

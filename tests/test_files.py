import os
from collections.abc import Callable
from pathlib import Path

import pytest

from transformer.errors import InputError
from transformer.files import check_writable, write_whole


def test_a_file_is_replaced_atomically(tmp_path: Path):
    file = tmp_path / "scores.json"
    write_whole(file, b"a longer first text\n")
    write_whole(file, "ü\n".encode())
    assert file.read_bytes() == "ü\n".encode()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("make", [os.mkfifo, lambda part: part.symlink_to("other")], ids=["pipe", "link"])
def test_what_has_the_name_of_the_unfinished_file_is_replaced(tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path / "scores.json.part")
    write_whole(tmp_path / "scores.json", b"text")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("scores.json", b"text")]
    assert not (tmp_path / "scores.json").is_symlink()


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check_writable("new.json")
    (tmp_path / "old.json").touch()
    check_writable(tmp_path / "old.json")
    for file in (tmp_path, tmp_path / "nowhere" / "new.json", tmp_path / "old.json" / "new.json", ""):
        with pytest.raises(InputError, match=r"^Cannot write .+ directory\. Give"):
            check_writable(file)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"^Cannot write new\.json: no permission to write to "):
        check_writable("new.json")
    assert [file.name for file in tmp_path.iterdir()] == ["old.json"]

from pathlib import Path

from transformer.files import write_whole


def test_a_file_is_replaced_whole(tmp_path: Path):
    file = tmp_path / "scores.json"
    write_whole(file, b"a longer first text\n")
    write_whole(file, "ü\n".encode())
    assert file.read_bytes() == "ü\n".encode()
    assert list(tmp_path.iterdir()) == [file]

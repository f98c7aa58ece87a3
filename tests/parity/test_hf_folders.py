"""Folders of Hugging Face's Marian: what a file may be stored as, and what must be refused."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from transformer.cli import main
from transformer.interop.hf_marian import read
from transformer.interop.pickled_tensors import read_pickled_tensors

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")

from hf_models import SMALL, lines_of_text, write_model, write_tokenizer  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

LINES = lines_of_text(600)
WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("original") / "model"
    tokenizer = write_tokenizer(folder, LINES, 800, separate=False)
    small = {**SMALL, "encoder_layers": 1, "decoder_layers": 1}
    return folder, write_model(folder, tokenizer, **small, activation_function="quick_gelu")


@pytest.fixture
def folder(original: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    copied = tmp_path / "model"
    copied.mkdir()
    for file in original[0].iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    return copied


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_tensors_are_read_in_every_dtype(tmp_path: Path, dtype: Any, zipped: bool) -> None:
    """Also views of other tensors, which share a storage."""
    whole = torch.arange(24.0, dtype=dtype).reshape(4, 6)
    parameter = torch.nn.Parameter(whole[2:])
    state = {"whole": whole, "transposed": whole.T, "part": whole[1:3, 2:4], "column": whole[:, 1], "leaf": parameter}
    file = tmp_path / PICKLED
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    tensors = read_pickled_tensors(file)
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype.name == str(dtype).removeprefix("torch.")
        np.testing.assert_array_equal(tensor.astype(np.float64), state[name].detach().double().numpy())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_the_same_from_either_file(
    original: tuple[Path, Any], folder: Path, zipped: bool, dtype: Any
) -> None:
    """Older files have the tied tensors several times, and tables of positions."""
    state = {name: leaf.to(dtype) for name, leaf in original[1].state_dict().items()}
    assert {"lm_head.weight", "model.encoder.embed_positions.weight"} < state.keys()
    torch.save(state, folder / PICKLED, _use_new_zipfile_serialization=zipped)
    (folder / WEIGHTS).unlink()
    found, expected = read(folder), read(original[0])
    assert found.config == expected.config
    rounded = jax.tree.map(lambda leaf: torch.from_numpy(leaf).to(dtype).float().numpy(), expected.params)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, rounded))


class Code:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def pickled_code(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"model.shared.weight": torch.ones(2), "x": Code(folder / "executed")}, folder / PICKLED)


def old_pickled_code(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"x": Code(folder / "executed")}, folder / PICKLED, _use_new_zipfile_serialization=False)


def in_tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def in_object(file: str, **values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        before = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(before | values), encoding="utf-8")

    return damage


def in_file(file: str, content: bytes | None) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).unlink() if content is None else (folder / file).write_bytes(content)


BIAS, FIRST = "final_logits_bias", "model.encoder.layers.0.fc1.weight"
TABLES = {
    f"model.{side}.embed_positions.weight": np.eye(64) * scale for side, scale in (("encoder", 1), ("decoder", 2))
}
HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}).encode()
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (pickled_code, "posix mkdir, which makes no tensor"),
    "old code": (old_pickled_code, "posix mkdir, which makes no tensor"),
    "no pickle": (lambda folder: (folder / WEIGHTS).rename(folder / PICKLED), "not a file of tensors"),
    "NaN": (in_tensors(lambda found: found[FIRST].__setitem__((0, 0), np.nan)), "a value that is not finite"),
    "missing": (in_tensors(lambda found: found.pop(FIRST)), f"The tensor {FIRST} is missing"),
    "surplus": (in_tensors(lambda found: found.update(x=np.ones(1))), "The tensor x is unknown"),
    "shape": (in_tensors(lambda found: found.update({BIAS: np.ones(3)})), f"{BIAS} has the shape [3]"),
    "10 GB header": (in_file(WEIGHTS, struct.pack("<Q", 10 << 30) + b"{}"), "header too large"),
    "huge tensor": (in_file(WEIGHTS, struct.pack("<Q", len(HEADER)) + HEADER + bytes(4)), "overflow"),
    "no weights": (in_file(WEIGHTS, None), f"neither {WEIGHTS} nor {PICKLED}"),
    "no source.spm": (in_file("source.spm", None), "source.spm: No such file"),
    "damaged source.spm": (in_file("source.spm", b"\xff\xff"), "source.spm is not a SentencePiece model"),
    "other vocabulary": (
        in_file("vocab.json", b'{"</s>": 0, "<unk>": 1, "<pad>": 2}'),
        "has 3 tokens, but config.json",
    ),
    "nested JSON": (in_file("config.json", b"[" * 100_000), "config.json"),
    "other model": (in_object("config.json", model_type="t5"), "model_type in config.json is 't5'"),
    "size": (in_object("config.json", d_model=2**40), "d_model in config.json must be an integer"),
    "layers": (in_object("config.json", encoder_layers=2**23), "The tensor model.encoder.layers.1."),
    "text": (in_object("config.json", encoder_ffn_dim="64"), "encoder_ffn_dim in config.json must be an integer"),
    "heads": (in_object("config.json", encoder_attention_heads=2), "differ in attention_heads (2 and 4)"),
    "activation": (in_object("config.json", activation_function="tanh"), "activation_function in config.json"),
    "pre-norm": (in_object("config.json", normalize_before=True), "normalize_before=True, which is not supported"),
    "trained positions": (
        in_object("config.json", static_position_embeddings=False),
        "static_position_embeddings=False, which is not supported",
    ),
    "two tables of positions": (in_tensors(lambda found: found.update(TABLES)), "embed_positions.weight differ"),
    "search": (in_object("generation_config.json", num_beams=0), "The settings of generation are not valid"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_and_leaves_nothing(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    assert main(["import", str(folder), str(tmp_path / "run"), "--from", "hf-marian"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert [*tmp_path.iterdir()] == [folder]
    assert not (folder / "executed").exists()


def test_paths_in_a_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    for file in ("tokenizer_config.json", "config.json"):
        in_object(file, source_spm="../../x", vocab="/etc/passwd", _name_or_path="../../x", auto_map={"x": "../x"})(
            folder
        )
    assert read(folder).tokenizer.source.size == 1 + read(folder).tokenizer.pad_id


def test_what_the_search_leaves_out_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_object("generation_config.json", do_sample=True, bad_words_ids=[[1], [5, 6]])(folder)
    assert main(["import", str(folder), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "The search has no counterpart of do_sample in" in said
    assert "The search has no counterpart of bad_words_ids in" in said
    assert "a hf-marian model with" in said

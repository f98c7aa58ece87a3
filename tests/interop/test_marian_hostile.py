"""Models that are damaged, hostile or not supported: a clear error, nothing executed, nothing left half-written."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import assert_refused, call

from transformer.interop.marian_weights import SETTINGS


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "model.npz") as archive:
        return {name: archive[name] for name in archive.files}


def change(folder: Path, arrays: dict[str, np.ndarray | None]) -> None:
    changed = {name: array for name, array in (arrays_of(folder) | arrays).items() if array is not None}
    np.savez(folder / "model.npz", **changed)  # pyright: ignore[reportArgumentType]


def configure(folder: Path, **settings: object) -> None:
    before = yaml.safe_load(arrays_of(folder)[SETTINGS].tobytes().rstrip(b"\0"))
    after = before | {name.replace("_", "-"): value for name, value in settings.items()}
    change(folder, {SETTINGS: np.frombuffer(yaml.safe_dump(after).encode(), np.int8)})


def refuse(folder: Path, message: str) -> None:
    assert_refused(call("import", str(folder), str(folder.parent / "run")), message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "s2s"}, "type: s2s is not supported"),
        ({"transformer_decoder_autoreg": "rnn", "dec_cell": "ssru"}, "an RNN or SSRU decoder is not supported"),
        ({"transformer_decoder_autoreg": "average-attention"}, r"average attention network \(aan\) is not supported"),
        ({"transformer_tied_layers": [1, 1]}, "transformer-tied-layers"),
        ({"transformer_ffn_activation": "tanh"}, "activation tanh is not supported"),
        ({"transformer_postprocess": "a"}, "this order of operations is not supported"),
        ({"transformer_train_position_embeddings": True}, "transformer-train-position-embeddings"),
        ({"dim_emb": "64"}, "must give dim-emb, but has '64'"),
        ({"dim_vocabs": [1000]}, "dim-vocabs must be two numbers"),
        ({"transformer_heads": 7}, "must be divisible by model.num_heads"),
        ({"dim_emb": 32}, r"The weight Wemb has the shape \[1000, 64\], but the configuration needs \[1000, 32\]"),
        ({"enc_depth": 3}, "lacks the weight encoder_l3_self_W"),
        ({"enc_depth": 1}, "weights that its configuration does not name: encoder_l2_"),
    ],
)
def test_settings(model_folder: Path, settings: dict, message: str) -> None:
    configure(model_folder, **settings)
    refuse(model_folder, message)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"decoder_l1_ffn_b1": None}, "lacks the weight decoder_l1_ffn_b1"),
        ({"decoder_l1_ffn_b1": np.zeros((1, 127), np.float32)}, r"shape \[1, 127\], but the configuration needs"),
        ({"extra": np.zeros(1, np.float32)}, "does not name: extra"),
        ({"Wemb": np.full((1000, 64), np.nan, np.float32)}, r"\['embedding'\] has a value that is not finite"),
        ({"Wemb": np.zeros((1000, 64), np.int8)}, "has the type int8. Quantized models are not supported"),
        ({SETTINGS: np.frombuffer(b"\xff: [", np.int8)}, "not valid YAML"),
        ({SETTINGS: np.frombuffer(b"!!python/object/apply:os.abort []", np.int8)}, "not valid YAML"),
        ({SETTINGS: np.frombuffer(b"- a", np.int8)}, "it has no settings"),
    ],
)
def test_weights(model_folder: Path, arrays: dict, message: str) -> None:
    change(model_folder, arrays)
    refuse(model_folder, message)


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_pickle_is_not_executed(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_folder)
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    with zipfile.ZipFile("model.npz", "a") as archive:
        archive.writestr("harmful.npy", array.getvalue() + pickle.dumps([Harmful()]))
    refuse(model_folder, "harmful is not an array of numbers")
    assert not Path("executed").exists()


def test_a_zip_bomb(model_folder: Path) -> None:
    with zipfile.ZipFile(model_folder / "model.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Wemb.npy", bytes(50_000_000))
    refuse(model_folder, "unpacked, it would have 50 MB")


def test_a_damaged_archive(model_folder: Path) -> None:
    content = bytearray((model_folder / "model.npz").read_bytes())
    content[1000:1100] = bytes(100)
    (model_folder / "model.npz").write_bytes(content)
    refuse(model_folder, "damaged")
    (model_folder / "model.npz").write_bytes(b"no archive")
    refuse(model_folder, "is not a model of Marian, or it is damaged")


def test_vocabularies_are_looked_up_by_name_only(model_folder: Path) -> None:
    """`opus/vocab.spm` in the settings is a file beside the model, whatever its path says."""
    (model_folder / "vocab.spm").rename(model_folder / "other.bin")
    refuse(model_folder, "vocab.spm is not beside the model")
    (model_folder / "model.npz.decoder.yml").write_text("vocabs: [../../../etc/passwd, ../other.bin]")
    refuse(model_folder, r"vocabularies passwd and other\.bin are not supported")
    (model_folder / "model.npz.decoder.yml").write_text("vocabs: [a.spm, b.spm, c.spm]")
    refuse(model_folder, "must have one or two vocabularies")
    (model_folder / "vocab.spm").write_bytes(b"not a model")
    (model_folder / "model.npz.decoder.yml").unlink()
    refuse(model_folder, "vocab.spm is not a SentencePiece model")
    (model_folder / "a.spm").write_bytes(b"")
    refuse(model_folder, "Cannot tell the vocabulary of the source from that of the target")


def test_paths(model_folder: Path) -> None:
    refuse(model_folder / "nothing", "there is no such file or folder")
    (model_folder / "model.bin").write_bytes((1).to_bytes(8, "little") + bytes(100))
    refuse(model_folder / "model.bin", "binary model of Marian, which is not supported")
    (model_folder / "second.npz").write_bytes(b"")
    refuse(model_folder, "has 2 models. Give the npz of one: model.npz, second.npz")
    assert_refused(call("import", str(model_folder / "model.npz"), str(model_folder)), "it already exists")

"""What fuzzing found, and bombs: small inputs that would need far more time or memory than they have bytes."""

import dataclasses
import gzip
import io
import json
import lzma
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from command_line import call
from limits import limited
from samples import CONFIG

from transformer.changes import changes
from transformer.checkpoint_records import Record, records
from transformer.config import Config, DataConfig, ModelConfig
from transformer.config_files import from_json, to_json
from transformer.counters import Counters
from transformer.data.corpus import read_files
from transformer.data.sentencepiece_models import load_processor, pieces
from transformer.data.text import read_lines
from transformer.data.tokenizer_marian import read_vocabulary
from transformer.errors import InputError
from transformer.files import read_json, read_regular
from transformer.inference.results import read_result
from transformer.inference.translator import load
from transformer.interop import marian
from transformer.interop.hf_marian_config import read_settings
from transformer.interop.marian_settings import read_settings as read_marian_settings
from transformer.interop.marian_weights import open_archive, read_array
from transformer.interop.pickled_tensors import _Storage, _tensors, _View
from transformer.manifest import write_manifest
from transformer.run_dir import adopt, hold_run, read_config
from transformer.status import read_status
from transformer.training.metrics import MetricsLog

FIXTURES = Path(__file__).parents[1] / "fixtures"

PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_a_decompression_bomb_is_refused_and_repeated_text_is_not(tmp_path: Path, suffix: str):
    file = tmp_path / f"text{suffix}"
    packed = PACK[suffix](bytes(2**24))
    file.write_bytes(packed * 5)
    with limited(), pytest.raises(InputError, match=r"has [\d,]+ bytes, but unpacks to more than 67,108,864, which"):
        list(read_lines(str(file)))
    file.write_bytes(PACK[suffix](b"the same line\n" * 100_000) + PACK[suffix](b"another\n"))
    assert list(read_lines(str(file))) == ["the same line"] * 100_000 + ["another"]
    file.write_bytes(PACK[suffix](os.urandom(1000).hex().encode())[:-8])
    with pytest.raises(InputError, match="cannot be decompressed"):
        list(read_lines(str(file)))


def test_a_line_without_an_end_is_refused(tmp_path: Path):
    (tmp_path / "text").symlink_to("/dev/zero")
    with limited(), pytest.raises(InputError, match="text has a line of more than 67,108,864 bytes"):
        next(read_lines(str(tmp_path / "text")))


def test_a_parquet_bomb_is_refused(tmp_path: Path):
    file = str(tmp_path / "bomb.parquet")
    repeated = pyarrow.DictionaryArray.from_arrays(pyarrow.repeat(pyarrow.scalar(0), 100_000), ["x" * 10_000])
    pyarrow.parquet.write_table(pyarrow.table({"en": repeated, "de": repeated}), file, store_schema=False)
    with limited(), pytest.raises(InputError, match="unpacks to more than 67,108,864"):
        read_files((file,), DataConfig())


def test_text_in_parquet_that_is_not_utf8_is_refused(tmp_path: Path):
    file = str(tmp_path / "broken.parquet")
    broken = pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"en": broken, "de": broken}), file)
    with pytest.raises(InputError, match=r"broken\.parquet is not a readable parquet file \(.*invalid start byte"):
        read_files((file,), DataConfig())


def test_an_array_is_no_larger_than_its_file(tmp_path: Path):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
        archive.writestr("Wemb.npy", content.getvalue())
    with open_archive(tmp_path / "model.npz") as archive, pytest.raises(InputError, match="Wemb is not an array"):
        read_array(archive, "Wemb")
    views = {"w": _View(_Storage("0", np.float32, 1), 0, (10**6, 10**6), (0, 0))}
    with pytest.raises(ValueError, match="more elements than its storage"):
        _tensors(views, lambda storage: bytes(4))


def test_a_line_of_spaces_takes_no_quadratic_time():
    with limited(), pytest.raises(InputError, match="it has the line 'a  "):
        read_vocabulary(b"a" + b" " * 100_000, "vocab.yml")


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"unknown": [1], "step": 5}, True),  # of a later version; the name of the folder is the step
        ({"step": "../x"}, False),
        ({"counters": {"loss_sum": 1, "unknown": 2}}, True),
        ({"counters": {"loss_sum": "x"}}, False),
        ({"counters": [1]}, False),
        ({"layout": "2"}, False),
        ({"fingerprint": ["x"]}, False),
        ({"resume_only": 1}, False),
    ],
)
def test_metadata_of_a_checkpoint_has_known_fields_of_their_types(run: Path, change: dict, known: bool):
    checkpoint = run / "checkpoints" / "20"
    file = checkpoint / "_CHECKPOINT_METADATA"
    before, values = records(run), json.loads(file.read_text())
    values["custom_metadata"] |= change
    file.write_text(json.dumps(values))
    (checkpoint / "SHA256SUMS").unlink()
    write_manifest(checkpoint)
    after = records(run)
    assert after[0] == before[0]
    counters = Counters(loss_sum=1) if "counters" in change else before[1].counters
    assert after[1] == (before[1]._replace(counters=counters) if known else Record(20, before[1].validation_loss))


@pytest.mark.parametrize("metrics", ['["x"]', '{"validation_loss": "x"}', '{"validation_loss": [1]}', "[" * 2000])
def test_metrics_of_a_checkpoint_may_be_anything(run: Path, metrics: str):
    checkpoint = run / "checkpoints" / "20"
    (checkpoint / "metrics" / "metrics").write_text(metrics)
    (checkpoint / "SHA256SUMS").unlink()
    write_manifest(checkpoint)
    assert records(run)[1].validation_loss == np.inf


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"num_encoder_layers": 2}},
        {"model": {"d_model": 4}},
        {"model": {"num_encoder_layers": 2**24}},
    ],
)
def test_a_checkpoint_that_does_not_fit_the_config_is_refused(run: Path, change: dict[str, dict[str, int]]):
    values = json.loads((run / "config.json").read_text())
    for part, fields in change.items():
        values[part] |= fields
    (run / "config.json").write_text(json.dumps(values))
    with limited(), pytest.raises(InputError, match=r"The parameters in .*run do not fit the model: "):
        load(run)


@pytest.mark.parametrize(
    "text",
    ["[" * 10_000, '{"seed": ' + "9" * 5000 + "}", '{"' + "x" * 9000 + '": 1}', '{"average": "' + "x" * 9000 + '"}'],
)
def test_a_config_with_a_long_or_deep_value_is_refused_briefly(text: str):
    with pytest.raises(InputError) as raised:
        from_json(text)
    assert len(str(raised.value)) < 500


def test_numbers_that_no_machine_can_hold_are_refused():
    for part, field, most in ((ModelConfig, "d_model", 2**24), (Config, "seed", 2**63 - 1)):
        with pytest.raises(InputError, match=rf"{field} must be at most {most:,}, but is {10**400!s:.200}\.$"):
            part(**{field: 10**400})
    assert from_json(to_json(dataclasses.replace(CONFIG, seed=2**63 - 1))).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluation.json", "[]"),
        ("evaluation.json", '{"config": 1}'),
        ("test.jsonl", '{"source": 1, "reference": "a"}\n'),
        ("test.jsonl", '{"source": "a", "reference": ["\\ud800"]}\n'),
        ("test.jsonl", '{"source": "a"}\n'),
        ("test.jsonl", ""),
        ("hypotheses.txt", "\udcff"),
    ],
)
def test_a_damaged_evaluation_is_named(run: Path, name: str, text: str):
    folder = run / "evaluation" / "20"
    assert len(read_result(folder).pairs.sources) == 20
    (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=r"The evaluation in .*20 is damaged \(.*Remove the folder and evaluate again"):
        read_result(folder)


@pytest.mark.parametrize("field", ["max_length", "max_new_tokens", "min_length", "length_penalty", "num_beams"])
@pytest.mark.parametrize("value", ["x", [1], {}, 10**400])
def test_settings_of_generation_of_another_type(hf_settings: dict, field: str, value: object):
    if (field, value) not in (("max_length", 10**400), ("max_new_tokens", 10**400), ("min_length", 10**400)):  # limited
        with pytest.raises(InputError, match="The settings of generation are not valid"):
            read_settings(hf_settings, {field: value})


def test_files_that_never_end_are_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with limited(), pytest.raises(OSError, match="Not a regular file"):
            read_regular(tmp_path / name)
        with pytest.raises(InputError, match=rf"Cannot read .*{name}: Not a regular file\."):
            read_json(tmp_path / name)
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with limited(), pytest.raises(InputError, match="is not a run directory"):
        read_config(tmp_path)
    (tmp_path / "large").write_bytes(b"[1]")
    with pytest.raises(OSError, match="Larger than 0 MB"):
        read_regular(tmp_path / "large", largest=2)
    with pytest.raises(InputError, match="not the name of a file"):
        list(read_lines("\0"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "starts.jsonl", "changes.jsonl", "diverged.txt", ".lock"])
def test_pipes_in_a_run_are_refused(run: Path, name: str):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    more = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, steps=CONFIG.training.steps + 1))
    readers: dict[str, list[Callable[[], object]]] = {
        "metrics.jsonl": [lambda: read_status(run), lambda: MetricsLog(run / name, 20)],
        "starts.jsonl": [lambda: read_status(run)],
        "changes.jsonl": [lambda: adopt(run, more)],
    }
    for read in readers.get(name, ()):
        with pytest.raises(InputError, match=rf"^Cannot read .*{name}: Not a regular file\. Restore it, or remove it"):
            read()
    if name not in readers:
        status = read_status(run)
        assert (status.alive, status.reason) == (False, None)
        with hold_run(run):
            assert read_status(run).alive


@pytest.mark.parametrize("name", ["model.npz", "model.bin"])
def test_pipes_among_models_are_not_opened(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / name)
    assert not marian.recognizes(tmp_path)


def test_a_piece_that_is_not_utf8_is_refused():
    model = (FIXTURES / "marian-tiny" / "vocab.spm").read_bytes()
    broken = load_processor(model.replace("▁the".encode(), b"\xff\x96\x81the"), "vocab.spm")
    with pytest.raises(InputError, match=r"^vocab\.spm is not a SentencePiece model: a piece is not UTF-8\.$"):
        pieces(broken, "vocab.spm")


def test_a_long_value_is_shortened_in_a_message():
    with pytest.raises(InputError, match=r"--init-from was None and is now '9{299}\.") as raised:
        changes(CONFIG, dataclasses.replace(CONFIG, init_from="9" * 5000), 0)
    assert len(str(raised.value)) < 500


def test_translations_that_are_not_utf8_are_not_compared(run: Path):
    (run / "hypotheses.txt").write_bytes(b"\xff\n")
    result = call("compare", str(run), str(run))
    assert result.status == 2
    assert "hypotheses.txt is damaged ('utf-8' codec can't decode" in result.err
    assert result.err.endswith(f"Give {run}@last to compare its last checkpoint.\n")


@pytest.mark.parametrize("command", ["tune", "evaluate"])
@pytest.mark.parametrize("corpus", ["files", "owner/name"])
def test_what_a_config_names_is_not_read_instead_of_the_pairs_of_a_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, corpus: str
):
    for reader in ("stream_files", "load_rows"):
        monkeypatch.setattr(f"transformer.data.corpus.{reader}", pytest.fail)
    values, named = json.loads((run / "config.json").read_text()), [str(tmp_path / "x.jsonl")]
    values["data"] |= {"corpus": corpus, "train": named, "validation": named, "test": named}
    (run / "config.json").write_text(json.dumps(values))
    for name in ("test.jsonl", "validation.jsonl"):
        (run / name).unlink()
    result = call(command, str(run))
    assert result.status == 2
    assert re.search(r"run has no (test|validation) set\. Give --source and --reference\.\n$", result.err)


def test_a_number_of_too_many_digits_is_refused(hf_settings: dict):
    with pytest.raises(InputError, match="it is not valid YAML"):
        read_marian_settings(b"dim-emb: " + b"9" * 5000, "model.npz.yml")
    with pytest.raises(InputError, match=r"decoder_attention_heads in config\.json must be an integer") as raised:
        read_settings(hf_settings | {"decoder_attention_heads": {"9" * 5000: []}}, {})
    assert len(str(raised.value)) < 500

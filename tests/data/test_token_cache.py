"""Token ids in memory-mapped files, made once and found again."""

import dataclasses
import fcntl
import json
import os
import signal
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest

from transformer import interruption, stages
from transformer.config import DataConfig, TokenizerConfig
from transformer.data import pair_files, token_cache
from transformer.data.corpus import read_pairs
from transformer.data.token_cache import CachedTokens, cached_tokens, is_unfinished, kept_tokens
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokens import tokenize
from transformer.errors import InputError
from transformer.interruption import Interrupted
from transformer.manifest import write_manifest

CHUNK, PAIRS = 7, 101


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    return BpeTokenizer.train(["ab" * 20], 261, TokenizerConfig())


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Files of some empty, long and repeated pairs, read in small chunks, all of which are saved."""
    monkeypatch.setattr(pair_files, "CHUNK", CHUNK)
    monkeypatch.setattr(token_cache, "_SAVE_EVERY", 1)
    sources = ["" if n % 19 == 3 else "ab" * (n % 23) + str(n // 2) for n in range(PAIRS)]
    targets = ["c" * (n % 17) + str(n // 2) for n in range(PAIRS)]
    sources[25], targets[25] = sources[24], targets[24]
    for name, texts in (("x.en", sources), ("x.de", targets)):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts))
    files = str(tmp_path / "x.en"), str(tmp_path / "x.de")
    return DataConfig(train=files, drop_empty=True, drop_duplicates=True, max_length=15, max_length_ratio=2.5)


def assert_same(one: CachedTokens, other: CachedTokens) -> None:
    for array, expected in zip(one.tokens[:5], other.tokens[:5], strict=True):
        np.testing.assert_array_equal(array, expected)
    assert one[1:] == other[1:]
    assert one.tokens.sizes == other.tokens.sizes


def test_it_holds_what_tokenizing_in_memory_gives(config, tokenizer, tmp_path):
    found = cached_tokens(tmp_path / "tokens", config, tokenizer, 14)
    pairs, report = read_pairs(config, "train")
    expected = tokenize(pairs, tokenizer, config, report, filter=True, max_length=14)
    for array, wanted in zip(found.tokens[:4], expected[:4], strict=True):
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, wanted)
    assert found.tokens.source_ids.dtype == found.tokens.target_ids.dtype == np.uint16
    assert found.tokens.sizes == (expected.num_pairs,)
    assert (found.report, found.fingerprint) == (report, pairs.fingerprint)
    assert {*report.dropped} == {"empty", "duplicates", "too long", "length ratio"}
    lines = (tmp_path / "x.en").read_text().splitlines()
    for pair, number in enumerate(np.asarray(found.tokens.numbers).tolist()):
        ids = found.tokens.source_ids[found.tokens.source_offsets[pair] : found.tokens.source_offsets[pair + 1]]
        assert tokenizer.decode_batch([ids])[0] == lines[number - 1]


def test_a_second_start_reads_no_text(config, tokenizer, tmp_path, monkeypatch):
    first = cached_tokens(tmp_path / "tokens", config, tokenizer, 14)
    monkeypatch.setattr(token_cache, "stream_pairs", pytest.fail)
    assert_same(cached_tokens(tmp_path / "tokens", config, tokenizer, 14, check=pytest.fail), first)
    assert_same(cached_tokens(tmp_path / "tokens", config, tokenizer, 14), first)


def test_it_says_that_it_waits_for_another_process(config, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "LONG", 0.01)
    lock = tmp_path / "tokens.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.3, file.close).start()
        cached_tokens(tmp_path / "tokens", config, tokenizer, 14)
    said = f"waiting for the process that holds {lock} to tokenize the training pairs ..."
    assert said in capsys.readouterr().out.splitlines()


def test_a_shared_cache_has_a_folder_for_each_key(config, tokenizer, tmp_path):
    variants = [
        (config, tokenizer, 14),
        (config, tokenizer, 13),
        (dataclasses.replace(config, drop_duplicates=False), tokenizer, 14),
        (config, BpeTokenizer.train(["cb" * 20], 261, TokenizerConfig()), 14),
    ]
    cache, folders = tmp_path / "cache", 0
    for variant in variants:
        cached_tokens(cache, *variant, shared=True)
        assert len([path for path in cache.iterdir() if path.is_dir()]) == folders + 1
        folders += 1
    # Another name of the same content, and fields that change nothing, find the same tokens.
    for name in ("x.en", "x.de"):
        (tmp_path / f"copy.{name}").write_bytes((tmp_path / name).read_bytes())
    moved = dataclasses.replace(config, train=tuple(f"{tmp_path}/copy.{name}" for name in ("x.en", "x.de")))
    assert cached_tokens(cache, moved, tokenizer, 14, shared=True).report.files == moved.train
    assert len([path for path in cache.iterdir() if path.is_dir()]) == folders
    (tmp_path / "copy.x.de").write_text((tmp_path / "copy.x.de").read_text().replace("c1", "c2"))
    cached_tokens(cache, moved, tokenizer, 14, shared=True)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == folders + 1


@pytest.mark.parametrize("chunks", [1, 6, 14])
def test_an_interrupted_tokenization_is_continued(config, tokenizer, tmp_path, monkeypatch, chunks):
    expected = cached_tokens(tmp_path / "whole", config, tokenizer, 14)
    encoded, original = [], token_cache.encode

    def encode(pairs, tokenizer):
        if len(encoded) == chunks:
            raise KeyboardInterrupt
        encoded.append(len(pairs.sources))
        return original(pairs, tokenizer)

    folder = tmp_path / "tokens"
    monkeypatch.setattr(token_cache, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        cached_tokens(folder, config, tokenizer, 14)
    assert is_unfinished(folder)
    with (folder / "source_ids.bin").open("ab") as file:
        file.write(b"half a chunk")
    counted = []
    monkeypatch.setattr(token_cache, "encode", lambda *args: counted.append(args) or original(*args))
    assert_same(cached_tokens(folder, config, tokenizer, 14), expected)
    assert len(counted) == -(-PAIRS // CHUNK) - chunks
    assert not is_unfinished(folder)


def test_what_an_interrupted_process_left_of_other_data_is_not_used(config, tokenizer, tmp_path, monkeypatch):
    original = token_cache.encode
    for damage in ("other data", "a lost file"):
        folder = tmp_path / damage
        monkeypatch.setattr(token_cache, "encode", pytest.fail)
        (tmp_path / "x.en").write_text((tmp_path / "x.en").read_text())
        counted = []

        def encode(*args, counted=counted):
            if len(counted) == 3:
                raise KeyboardInterrupt
            counted.append(args)
            return original(*args)

        monkeypatch.setattr(token_cache, "encode", encode)
        with pytest.raises(KeyboardInterrupt):
            cached_tokens(folder, config, tokenizer, 14)
        if damage == "a lost file":
            (folder / "numbers.bin").unlink()
        monkeypatch.setattr(token_cache, "encode", original)
        limit = 14 if damage == "a lost file" else 13
        expected = cached_tokens(tmp_path / f"whole {limit}", config, tokenizer, limit)
        assert_same(cached_tokens(folder, config, tokenizer, limit), expected)


@pytest.mark.parametrize("damage", ["a flipped bit", "a short file", "a lost file", "no JSON", "no manifest"])
def test_damaged_tokens_are_made_again(config, tokenizer, tmp_path, capsys, damage):
    folder = tmp_path / "tokens"
    before = cached_tokens(folder, config, tokenizer, 14)
    expected = before._replace(tokens=before.tokens._replace(**{n: np.array(x) for n, x in arrays(before).items()}))
    file: Path = folder / "target_ids.bin"
    data = bytearray(file.read_bytes())
    file.unlink()  # the arrays above keep the file itself
    data[40] ^= 4
    match damage:
        case "a flipped bit":
            file.write_bytes(data)
        case "a short file":
            file.write_bytes(data[:-2])
        case "no JSON":
            (folder / "tokens.json").write_text("{")
        case "no manifest":
            (folder / "SHA256SUMS").unlink()
    assert_same(cached_tokens(folder, config, tokenizer, 14), expected)
    said = capsys.readouterr().out
    assert said.count("are damaged (target_ids.bin). Tokenizing again.") == (damage[:2] == "a ")


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": 5},
        {"arrays": {"source_ids": "O"}},
        {"arrays": {"../../secret": "<i4"}},
        {"sizes": 5},
        {"sizes": [-1]},
        {"sizes": [1]},
        {"sizes": [0, 0]},
        {"report": [1]},
        {"report": {"read": "x", "dropped": {}, "empty": 0}},
    ],
    ids=str,
)
def test_only_the_known_arrays_of_known_types_are_read(config, tokenizer, tmp_path, change):
    folder = tmp_path / "tokens"
    expected = cached_tokens(folder, config, tokenizer, 14)
    about = json.loads((folder / "tokens.json").read_text())
    (folder / "tokens.json").write_text(json.dumps(about | change))
    write_manifest(folder)
    assert_same(cached_tokens(folder, config, tokenizer, 14), expected)
    assert json.loads((folder / "tokens.json").read_text()) == about


@pytest.mark.parametrize("name", ["tokens.json", "progress.json", "source_ids.bin", "SHA256SUMS"])
def test_pipes_among_the_tokens_are_not_read(config, tokenizer, tmp_path, name):
    folder = tmp_path / "tokens"
    expected = cached_tokens(folder, config, tokenizer, 14)
    for file in {name, "tokens.json"}:  # what looks unfinished
        (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert_same(cached_tokens(folder, config, tokenizer, 14), expected)


@pytest.mark.parametrize(
    "change", [{"bytes": 5}, {"bytes": {"../x": 1}}, {"chunks": "x"}, {"chunks": -1}, {"sizes": None}, {"dropped": [1]}]
)
def test_malformed_progress_is_not_used(config, tokenizer, tmp_path, monkeypatch, change):
    folder, expected = tmp_path / "tokens", cached_tokens(tmp_path / "whole", config, tokenizer, 14)
    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "require_pairs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cached_tokens(folder, config, tokenizer, 14)
    about = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps(about | change))
    assert_same(cached_tokens(folder, config, tokenizer, 14), expected)


def arrays(found: CachedTokens) -> dict[str, np.ndarray]:
    named = zip(found.tokens._fields[:5], found.tokens[:5], strict=True)
    return {name: array for name, array in named if array is not None}


def test_data_are_compared_before_anything_is_written(config, tokenizer, tmp_path):
    def check(fingerprint: str) -> None:
        assert fingerprint == read_pairs(config, "train")[0].fingerprint
        raise InputError("other data")

    with pytest.raises(InputError, match="other data"):
        cached_tokens(tmp_path / "tokens", config, tokenizer, 14, check)
    assert not (tmp_path / "tokens").exists()


def test_a_folder_that_cannot_be_written_is_an_input_error(config, tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^Could not write the tokens to .*/file/x \(Not a directory\)\. Free"):
        cached_tokens(tmp_path / "file" / "x", config, tokenizer, 14)


def test_without_any_pair_left(config, tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"No pair is left to train on\. 101 pairs read .* too long"):
        cached_tokens(tmp_path / "tokens", dataclasses.replace(config, drop_duplicates=False), tokenizer, 2)


def test_a_dataset_of_the_hub_is_known_by_its_fingerprint(tokenizer, tmp_path, monkeypatch):
    rows = [{"en": "a", "de": "b"}, {"en": "ab", "de": "c"}]
    served = {"train": datasets.Dataset.from_list(rows), "extra": datasets.Dataset.from_list(rows[:1])}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split: served[split])
    config = DataConfig(corpus="some/set", train=("train", "extra"))
    first = cached_tokens(tmp_path, config, tokenizer, 14, shared=True)
    assert (first.tokens.sizes, first.report.files) == ((2, 1), ("some/set train", "some/set extra"))
    monkeypatch.setattr(token_cache, "stream_pairs", pytest.fail)
    assert_same(cached_tokens(tmp_path, config, tokenizer, 14, shared=True), first)
    monkeypatch.undo()
    served["extra"] = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split: served[split])
    assert cached_tokens(tmp_path, config, tokenizer, 14, shared=True).tokens.sizes == (2, 2)


def test_large_vocabularies_have_larger_ids(tokenizer, tmp_path, monkeypatch, config):
    monkeypatch.setattr(tokenizer, "size", 2**16 + 1)
    found = cached_tokens(tmp_path / "tokens", config, tokenizer, 14)
    assert found.tokens.source_ids.dtype == np.int32


def test_tokens_are_looked_for_without_writing(config, tokenizer, tmp_path):
    folder = tmp_path / "tokens"
    assert kept_tokens(folder, config, tokenizer, 14) is None
    assert not folder.exists()
    made = cached_tokens(folder, config, tokenizer, 14)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    found = kept_tokens(folder, config, tokenizer, 14)
    assert found is not None
    assert_same(found, made)
    assert kept_tokens(folder, dataclasses.replace(config, max_length=9), tokenizer, 14) is None
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_signal_ends_the_waiting_for_another_process(config, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(interruption, "_received", signal.SIGTERM)
    with (tmp_path / "tokens.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Interrupted):
            cached_tokens(tmp_path / "tokens", config, tokenizer, 14)

"""What is damaged, and the entry points that get it: each case ends in a result or an `InputError`."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet
from mutations import NUMBERS, TEXTS, any_bytes, changed, changed_folder, compressed, junk
from samples import CONFIG, ROWS, Samples

from transformer.analysis.history import read_histories
from transformer.changes import changes, other_model
from transformer.checkpoint_records import records
from transformer.config import Config, DataConfig
from transformer.config_files import from_json, load_config, to_json
from transformer.data.corpus import (
    Pairs,
    read_files,
    read_pairs,
    read_parallel,
    read_references,
    read_targets,
    stream_pairs,
)
from transformer.data.pairs import Report
from transformer.data.tokenizer import Vocabulary
from transformer.data.tokenizer_files import load_tokenizer
from transformer.data.tokens import tokenize
from transformer.experiment import finished_scores
from transformer.inference.loading import load_chosen, named_checkpoint
from transformer.inference.results import read_result, read_scores
from transformer.inference.watch import watch
from transformer.interop.importing import read_model
from transformer.kept_pairs import read_test_set, read_validation_set
from transformer.manifest import write_manifest
from transformer.origin import fine_tuning_config
from transformer.run import load
from transformer.run_dir import adopt, check_run, checkpoint_steps, data_fingerprints, is_finished, saved_steps

Case = Callable[[], object]
Make = Callable[[Random, Path, Samples], Case]
"""Writes a case's files to an empty folder, and returns the call that reads them."""


def corpus(random: Random, folder: Path, samples: Samples) -> Case:
    """Files of sentence pairs, and options of reading them."""
    texts = random.random() < 0.4  # two files of text, else any files
    files = tuple(
        corpus_file(random, folder / f"file{n}", samples, texts) for n in range(1 + (texts or random.random() < 0.2))
    )
    config = _data_config(random)
    empty = random.choice(("refuse", "drop", "keep"))
    is_one = len(files) == 1 and DataConfig(corpus=files[0] or "files").is_one_file
    one_file = {"corpus": files[0]} if is_one else {"corpus": "files"}
    readers: list[Callable[[], Pairs]] = [
        lambda: read_files(files, config, split=random.choice((None, "train", "")), empty=empty)[0],
        lambda: read_pairs(dataclasses.replace(config, train=files), "train")[0],
        lambda: read_pairs(dataclasses.replace(config, **one_file, test=("test",) if is_one else files), "test")[0],
        lambda: read_references(files[0], files[1:] * random.randint(1, 2), config, empty=empty),
        lambda: read_parallel(files[0], files[-1], config),
        lambda: Pairs([], read_targets(files[0], config)),
        lambda: streamed(dataclasses.replace(config, train=files)),
    ]
    read = random.choice(readers)

    def call() -> object:
        pairs = read()
        pairs = pairs._replace(sources=pairs.sources or pairs.targets)
        path, fitting = samples.tokenizers[0]
        tokenizer = load_tokenizer(path / "tokenizer.json", fitting)
        tokenize(pairs, tokenizer, config, Report(files, 0), filter=random.random() < 0.5, max_length=64)
        return pairs.fingerprint, pairs.num_empty, [*pairs.rows("en", "de")]

    return call


def streamed(config: DataConfig) -> Pairs:
    """The training pairs, read in chunks."""
    chunks = [chunk.pairs for chunk in stream_pairs(config, "train", Report(()))]
    return Pairs(
        [text for pairs in chunks for text in pairs.sources], [text for pairs in chunks for text in pairs.targets]
    )


def corpus_file(random: Random, stem: Path, samples: Samples, text: bool) -> str:
    """Writes a file of sentences or of pairs, and returns its name; sometimes another name."""
    suffix = ".txt" if text else random.choice((*samples.corpora, *samples.corpora, ".json", ".x"))
    zipped = random.choice(("", "", "", ".gz", ".xz", ".zst"))
    path = Path(f"{stem}{suffix}{zipped}")
    if suffix == ".parquet" and random.random() < 0.5:
        _write_parquet(random, path)
        data = path.read_bytes()
    elif suffix in (".jsonl", ".json"):
        data = _json_lines(random, samples)
    else:
        whole = samples.corpora.get(suffix, samples.corpora[".txt"])
        data = whole if random.random() < 0.4 else any_bytes(random, whole)
    path.write_bytes(compressed(random, data, zipped))
    return random.choice((str(path),) * 100 + (str(stem.parent), f"{path}x", "", "\0", "package:../../x.jsonl"))


def _json_lines(random: Random, samples: Samples) -> bytes:
    if random.random() < 0.5:
        whole = samples.corpora[".jsonl"]
        return whole if random.random() < 0.5 else any_bytes(random, whole)
    rows = [changed(random, row) if random.random() < 0.2 else row for row in ROWS]
    rows = [{"translation": row} if random.random() < 0.1 else row for row in rows]
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def _write_parquet(random: Random, path: Path) -> None:
    """Columns of random types, among them those that are asked for."""
    values: tuple[Any, ...] = (None, True, 1, 1.5, "text", b"\xff", ["a"], [None], {"a": 1}, {"en": "a", "de": "b"})
    names = random.sample(("en", "de", "translation", "split", "tags", "antecedents", "", "\0"), random.randint(0, 6))
    columns = []
    for name in names:
        value = "text" if name in ("en", "de") and random.random() < 0.7 else random.choice(values)
        column = pyarrow.array([value, random.choice((value, None))])
        columns.append(column.dictionary_encode() if random.random() < 0.1 and isinstance(value, str) else column)
    pyarrow.parquet.write_table(pyarrow.table(columns, [*names]), path)


def _data_config(random: Random) -> DataConfig:
    options: dict[str, tuple[Any, ...]] = {
        "source_language": ("en", "en", "en", "de", "", "translation", "tags"),
        "target_language": ("de", "de", "de", "fr", "\0", "split"),
        "tags": (*[None] * 8, "tags", "split", "en"),
        "split_key": ("split", "split", "en", "none", "tags"),
        "tsv_columns": (*[(0, 1)] * 6, (1, 0), (0, 1000), (2**62, 0)),
        "normalization": ("nfc", "none"),
        "drop_empty": (True, False),
        "allow_empty": (True, False),
        "drop_duplicates": (True, False),
        "max_length": (32, 2),
        "max_length_ratio": (None, 1.0, 1e308),
    }
    return DataConfig(**{name: random.choice(values) for name, values in options.items()})


def tokenizer(random: Random, folder: Path, samples: Samples) -> Case:
    """A tokenizer.json and the files that it names, and texts and ids for it."""
    path, config = random.choice(samples.tokenizers)
    copy = link(path, folder / "tokenizer")
    changed_folder(random, copy)
    texts = [random.choice((*TEXTS, "a ab b", "the dog")) for _ in range(3)]
    ids = [random.choice((0, 1, 2, 5, config.model.vocabulary_size - 1)) for _ in range(5)]

    def call() -> object:
        loaded = load_tokenizer(copy / "tokenizer.json", config)
        return loaded.fingerprint, *(_use(side, texts, ids) for side in (loaded.source, loaded.target))

    return call


def _use(vocabulary: Vocabulary, texts: list[str], ids: list[int]) -> object:
    flat, _ = vocabulary.encode_flat([text.encode("utf-8", "replace").decode() for text in texts])
    vocabulary.decode_batch([flat, ids])
    vocabulary.tokens(ids), vocabulary.spellings()
    for text in texts:
        vocabulary.encode(text), vocabulary.tokenize(text), vocabulary.offsets(text), vocabulary.single_ids(text)
    return flat


def config(random: Random, folder: Path, samples: Samples) -> Case:
    """A config as JSON, as keyword arguments, and as a Python file."""
    values = json.loads(samples.config)
    for _ in range(random.randint(1, 3)):
        values = changed(random, values)
    text = json.dumps(values)
    if random.random() < 0.2:
        text = any_bytes(random, text.encode()).decode("utf-8", random.choice(("surrogateescape", "replace")))
    part = random.choice([field for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)])
    field = random.choice(dataclasses.fields(part.type))  # pyright: ignore[reportArgumentType]
    python = folder / "config.py"
    python.write_bytes(any_bytes(random, b"from transformer.config import *\nconfig = Config()\n"))
    value = random.choice((*NUMBERS, *TEXTS, (), (1, "a"), ("a",), None, b"", object, junk(random)))
    readers: list[Case] = [
        lambda: part.type(**{field.name: value}),  # pyright: ignore
        lambda: load_config(str(python)),
    ]

    def call() -> object:
        found = from_json(text)
        assert repr(from_json(to_json(found))) == repr(found)
        other_model(CONFIG, found)
        return changes(CONFIG, found, random.choice((0, 10)))

    return random.choice((call, call, call, *readers))


def run(random: Random, folder: Path, samples: Samples) -> Case:
    """A run directory, read by whatever reads one."""
    copy = changed_run(random, folder, samples)
    checkpoint: Any = random.choice(("last", "best", 10, 20, 0, -1, "x", 10**30))
    average = random.choice((None, None, 1, 2, 3, 0, -1, 10**30))
    readers: list[Case] = [
        lambda: load(copy, checkpoint, average),
        lambda: load_chosen(copy, checkpoint, average, random.choice(("", "x")), say=print),
        lambda: (records(copy), saved_steps(copy), is_finished(copy)),
        lambda: checkpoint_steps(copy, checkpoint, average),
        lambda: (read_test_set(copy, CONFIG.data), data_fingerprints(copy)),
        lambda: read_validation_set(copy, CONFIG.data),
        lambda: read_histories([copy, samples.run]),
        lambda: read_scores(copy / "scores.json").to_text(),
        lambda: _use_result(read_result(copy / "evaluation" / "20")),
        lambda: watch(copy, Pairs(["a"], ["b"]), CONFIG.search, interval=0.0, report=print, note=print),
        lambda: finished_scores(dataclasses.replace(CONFIG, run_dir=str(copy))),
        lambda: (check_run(copy, CONFIG), adopt(copy, CONFIG)),
        lambda: fine_tuning_config(copy),
        lambda: named_checkpoint(f"{copy}@{random.choice((checkpoint, 'best', '٣', '9' * 5000))}", "last"),
    ]
    return random.choice((*readers[:5], *readers))


def _use_result(result: Any) -> object:
    return result.run_config, result.metrics, result.pairs.fingerprint


def changed_run(random: Random, folder: Path, samples: Samples) -> Path:
    """A copy of the run with changed files; sometimes with a manifest that fits them."""
    copy = link(samples.run, folder / "run")
    part = random.choice((copy, copy, copy / "checkpoints" / "20", copy / "evaluation"))
    if random.random() < 0.3:
        part = copy / "checkpoints" / "20" / random.choice(("_CHECKPOINT_METADATA", "metrics/metrics"))
        data = any_bytes(random, part.read_bytes())
        part.unlink()
        part.write_bytes(data)
    elif random.random() < 0.3:
        part = copy / random.choice([path.name for path in copy.iterdir() if path.is_file()])
        data = any_bytes(random, part.read_bytes())
        part.unlink()
        part.write_bytes(data)
    else:
        changed_folder(random, part)
    checkpoint = copy / "checkpoints" / "20"
    if random.random() < 0.7 and checkpoint.is_dir() and not any(path.is_fifo() for path in checkpoint.rglob("*")):
        _seal(checkpoint)
    return copy


def _seal(checkpoint: Path) -> None:
    """Writes a manifest that fits the files, as an attacker would."""
    manifest = checkpoint / "SHA256SUMS"
    if manifest.is_file() and not any(path.is_symlink() for path in checkpoint.rglob("*")):
        manifest.unlink()
        write_manifest(checkpoint)


def model(random: Random, folder: Path, samples: Samples) -> Case:
    """A model of another program."""
    copy = link(random.choice(samples.models), folder / "model")
    if random.random() < 0.6:  # the small files decide the most
        file = random.choice([path for path in copy.iterdir() if path.stat().st_size < 5000])
        data = any_bytes(random, file.read_bytes())
        file.unlink()
        file.write_bytes(data)
    else:
        changed_folder(random, copy)

    def call() -> object:
        found, _ = read_model(copy)
        return to_json(found.config), found.tokenizer.fingerprint

    return call


def link(source: Path, target: Path) -> Path:
    """Copies a folder with hard links. Whoever changes a file replaces it."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


CASES: dict[str, Make] = {
    "corpus": corpus,
    "tokenizer": tokenizer,
    "config": config,
    "run": run,
    "model": model,
}

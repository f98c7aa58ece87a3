"""The valid files that are damaged: corpora, tokenizers, a run, and models of other programs."""

import dataclasses
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from tokenizers import Tokenizer, models, pre_tokenizers

from transformer.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    SearchConfig,
    TokenizerConfig,
    TrainingConfig,
)
from transformer.config_files import to_json
from transformer.data.corpus import Pairs, read_files
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.files import as_json, new_folder
from transformer.inference.evaluate import score_translations
from transformer.inference.metrics import metrics_of
from transformer.inference.results import Result, settings, write_result
from transformer.interop import hf_marian, marian
from transformer.interop.formats import Request
from transformer.model import Transformer
from transformer.parameters import draw
from transformer.run import Run

TINY = Path(__file__).parents[1] / "fixtures" / "marian-tiny"
CONFIG = Config(
    average=2,
    compilation_cache=False,
    data=DataConfig(corpus="package:quickstart.jsonl.xz", max_length=32),
    model=ModelConfig(
        vocabulary_size=300,
        d_model=8,
        num_heads=2,
        d_ff=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
        max_positions=64,
    ),
    optimizer=OptimizerConfig(warmup_steps=10),
    training=TrainingConfig(steps=20, batch_tokens=512),
    search=SearchConfig(beam_size=2, extra_length=5),
)
ROWS = [
    {"en": f"the dog no. {n} sleeps", "de": f"der hund nr. {n} schläft", "split": split, "tags": ["a", "b"]}
    for split in ("train", "validation", "test")
    for n in range(4)
]


@dataclass(frozen=True)
class Samples:
    """Valid inputs, as bytes or as folders that are copied before they are changed.

    Attributes:
        corpora: Files of sentence pairs by their suffix.
        tokenizers: Folders with a `tokenizer.json` and what it names, each with a config that it fits.
        config: A `config.json`.
        run: A run directory with two checkpoints, a log, scores and an evaluation.
        models: Folders that can be imported.
    """

    corpora: dict[str, bytes]
    tokenizers: list[tuple[Path, Config]]
    config: bytes
    run: Path
    models: list[Path]


def make_samples(folder: Path) -> Samples:
    """Writes the samples to an empty folder."""
    run = _make_run(folder / "run")
    imported = marian.read(TINY)
    translator = Run(imported.config, Transformer(imported.config.model), imported.params, imported.tokenizer)
    exported = folder / "hf"
    hf_marian.write(translator, Request(run, exported, imported.config.search))
    tiny = folder / "marian"
    tiny.mkdir()
    for name in ("model.npz", "model.npz.decoder.yml", "vocab.spm"):
        shutil.copyfile(TINY / name, tiny / name)
    return Samples(
        corpora=_corpora(), tokenizers=_tokenizers(folder, run), config=to_json(CONFIG).encode(), run=run,
        models=[exported, tiny],
    )  # fmt: skip


def _corpora() -> dict[str, bytes]:
    pairs = [(row["en"], row["de"]) for row in ROWS]
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), parquet)
    return {
        ".txt": "".join(f"{source}\n" for source, _ in pairs).encode(),
        ".tsv": "".join(f"{source}\t{target}\n" for source, target in pairs).encode(),
        ".jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS).encode(),
        ".parquet": parquet.getvalue(),
    }


def _make_run(folder: Path) -> Path:
    pairs, _ = read_files((CONFIG.data.corpus,), CONFIG.data, split="test")
    pairs = pairs.select(range(20))
    texts = [*pairs.sources, *pairs.targets]
    tokenizer = BpeTokenizer.train(texts, CONFIG.model.vocabulary_size, CONFIG.tokenizer, CONFIG.data.normalization)
    model = Transformer(CONFIG.model)
    first = Run(CONFIG, model, draw(model, 0), tokenizer, checkpoints=(10,))
    first.save(folder, _kept(pairs))
    second = folder.with_name("second")
    dataclasses.replace(first, checkpoints=(20,)).save(second)
    shutil.move(second / "checkpoints" / "20", folder / "checkpoints" / "20")
    shutil.rmtree(second)
    metrics = metrics_of(CONFIG)
    scores = score_translations(pairs.targets, pairs.targets, metrics=metrics, bootstrap=2)
    (folder / "scores.json").write_text(scores.to_json())
    (folder / "hypotheses.txt").write_text("".join(f"{line}\n" for line in pairs.targets))
    result = Result(
        str(folder), pairs, pairs.targets, settings(CONFIG, [20]), tokenizer.fingerprint, None,
        {name: score.signature for name, score in scores.by_metric.items()}, 1,
    )  # fmt: skip
    (folder / "evaluation").mkdir()
    write_result(folder / "evaluation" / "20", result, scores)
    return folder


def _kept(pairs: Pairs) -> dict[str, bytes]:
    rows = "".join(f"{json.dumps(row)}\n" for row in pairs.rows("en", "de")).encode()
    line = {"loss": 5.0, "learning_rate": 0.1, "validation_loss": 5.0}
    log = "".join(f"{json.dumps({'step': step, **line})}\n" for step in (10, 20)).encode()
    about = {split: {"fingerprint": pairs.fingerprint} for split in ("validation", "test")}
    return {
        "test.jsonl": rows,
        "validation.jsonl": rows,
        "metrics.jsonl": log,
        "data.json": as_json(about),
        "changes.jsonl": b'{"step": 10, "changed": {}}\n',
    }


def _tokenizers(folder: Path, run: Path) -> list[tuple[Path, Config]]:
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh ", "ab"])}
    kinds = (
        models.BPE(vocabulary, [("a", "b")], unk_token="<unk>"),
        models.WordPiece(vocabulary, unk_token="<unk>"),
        models.WordLevel(vocabulary, unk_token="<unk>"),
        models.Unigram([(token, -float(index)) for token, index in vocabulary.items()], 3, False),
    )
    found = [(_folder(folder / "ours", {"tokenizer.json": (run / "tokenizer.json").read_bytes()}), CONFIG)]
    for kind in kinds:
        tokenizer = Tokenizer(kind)
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
        files = {"tokenizer.json": tokenizer.to_str().encode()}
        found.append((_folder(folder / type(kind).__name__, files), _config(len(vocabulary), CONFIG.tokenizer)))
    return [*found, *_sentencepiece(folder)]


def _sentencepiece(folder: Path) -> list[tuple[Path, Config]]:
    imported, side = marian.read(TINY), {"model": "vocab.spm", "vocabulary": "vocab.yml"}
    pieces = ["</s>", "<unk>", "\u2581a", "b"]
    entries = "".join(f'"{piece}": {index}\n' for index, piece in enumerate(pieces)).encode()
    listed = {"format": "marian", "source": side, "target": side, "suppressed": ["<unk>"]}
    files = {"tokenizer.json": as_json(listed), "vocab.spm": (TINY / "vocab.spm").read_bytes(), "vocab.yml": entries}
    with new_folder(folder / "spm") as inside:
        imported.tokenizer.save(inside / "tokenizer.json")
    none = len(pieces)
    ids = TokenizerConfig(pad_id=none, start_id=none, end_id=0)
    return [(folder / "spm", imported.config), (_folder(folder / "yml", files), _config(none, ids))]


def _config(size: int, ids: TokenizerConfig) -> Config:
    model = dataclasses.replace(CONFIG.model, vocabulary_size=size, decoder_start="zeros")
    return dataclasses.replace(CONFIG, model=model, tokenizer=ids)


def _folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder

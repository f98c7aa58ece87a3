"""Two vocabularies, pre-norm and other activations, against Marian's formulas in NumPy."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from marian_model import LINES
from marian_reference import Marian, random_weights

import transformer
from transformer.config import ModelConfig, SearchConfig
from transformer.inference.backend import ACCELERATOR
from transformer.inference.decoding import decode
from transformer.inference.translation import search_ids
from transformer.interop.formats import Request, module
from transformer.interop.importing import import_model
from transformer.interop.marian import PRE_NORM_NOTE
from transformer.interop.marian_settings import model_config, to_settings
from transformer.interop.marian_weights import SETTINGS

pytestmark = pytest.mark.usefixtures("quick_compilation")
ORDERS = {True: ("n", "da", "n"), False: ("", "dan", "")}
VARIANTS = [("relu", True, "target"), ("gelu", False, "none")]


def sentencepiece_model(size: int) -> bytes:
    """A SentencePiece model as Marian trains it: the end is 0, the unknown 1, and there is nothing else."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model, ids = io.BytesIO(), {"eos_id": 0, "unk_id": 1, "bos_id": -1, "pad_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES[:100]), model_writer=model, vocab_size=size, minloglevel=2, **ids
    )
    return model.getvalue()


def save_model(folder: Path, weights: dict[str, np.ndarray], settings: dict, vocabularies: dict[str, bytes]) -> None:
    folder.mkdir()
    arrays: Any = weights | {SETTINGS: np.frombuffer(yaml.safe_dump(settings).encode(), np.int8)}
    np.savez(folder / "model.npz", **arrays)
    for name, content in vocabularies.items():
        (folder / name).write_bytes(content)
    (folder / "decoder.yml").write_text(yaml.safe_dump({"vocabs": [f"/elsewhere/{name}" for name in vocabularies]}))


@pytest.mark.parametrize(
    ("version", "expected"), [("v1.12.42 b7be0e964", "gelu"), ("v1.12.0", "gelu_sigmoid"), (None, "gelu_sigmoid")]
)
def test_gelu_is_that_of_the_version(version: str | None, expected: str) -> None:
    config = ModelConfig(
        activation="gelu", positions="halved_t2t", attention_bias=True, decoder_start="zeros", norm_epsilon=1e-6
    )
    found = model_config(to_settings(config) | {"version": version})
    assert found.activation == expected
    assert model_config(to_settings(found)).activation == expected


@pytest.mark.parametrize(("activation", "pre_norm", "tied"), VARIANTS)
def test_two_vocabularies(tmp_path: Path, activation: str, pre_norm: bool, tied: str) -> None:
    sizes = 80, 60
    weights = random_weights(16, 24, (2, 1), sizes, pre_norm, tied)
    before, after, top = ORDERS[pre_norm]
    settings = {
        "type": "transformer",
        "dim-vocabs": [*sizes],
        "dim-emb": 16,
        "enc-depth": 2,
        "dec-depth": 1,
        "transformer-heads": 4,
        "transformer-dim-ffn": 24,
        "transformer-ffn-activation": activation,
        "transformer-preprocess": before,
        "transformer-postprocess": after,
        "transformer-postprocess-top": top,
        "tied-embeddings": tied == "target",
    }
    vocabularies = {"en.spm": sentencepiece_model(80), "de.spm": sentencepiece_model(60)}
    save_model(tmp_path / "model", weights, settings, vocabularies)
    notes = list[str]()
    import_model(tmp_path / "model", tmp_path / "run", say=notes.append)
    assert notes == [PRE_NORM_NOTE] * pre_norm
    run = transformer.load(tmp_path / "run")

    source, target = run.tokenizer.source.encode(LINES[0]), run.tokenizer.target.encode(LINES[1])
    assert (run.tokenizer.source.size, run.tokenizer.target.size) == sizes
    assert max(source) >= 60  # an id that the target does not have
    reference = Marian(weights, 4, activation, pre_norm, tied)
    expected = reference.log_probabilities([*source, 0], [*target, 0])
    (found,) = run.log_probabilities([LINES[0]], [LINES[1]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    # In steps with a cache: greedy search adds up the log-probabilities of the tokens that it finds.
    search = SearchConfig(beam_size=1, extra_length=4, batch_tokens=64)
    ids = search_ids(run.tokenizer, search)
    ((_, best),) = decode(run.members, [source], np.zeros(1, int), search, ids, ACCELERATOR)
    tokens = best.tokens[0, 0, : best.lengths[0, 0]].tolist()
    expected = reference.log_probabilities([*source, 0], tokens)
    np.testing.assert_allclose(best.scores[0, 0], expected.sum(), rtol=1e-5)

    module("marian").write(run, Request(tmp_path / "run", tmp_path / "again", run.config.search))
    again = np.load(tmp_path / "again" / "model.npz")
    assert {*again.files} == {*weights, SETTINGS}
    for name, array in weights.items():
        np.testing.assert_array_equal(again[name], array)
    assert {path.name for path in (tmp_path / "again").glob("*.spm")} == {"en.spm", "de.spm"}

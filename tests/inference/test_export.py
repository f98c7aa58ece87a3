import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from transformer.config import SearchConfig
from transformer.errors import InputError
from transformer.inference.export import PLATFORMS, Artefact, export_search
from transformer.inference.translator import ensemble
from transformer.model import Transformer

pytestmark = pytest.mark.usefixtures("quick_compilation")

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_exported.py"
SENTENCES = ["seven", "the men see", "", "then see seas", "men", "the sea"]
# Runs a script with JAX alone: importing any of these packages raises ImportError.
ALONE = """
import runpy, sys
sys.modules |= dict.fromkeys(("transformer", "flax", "optax", "orbax", "tokenizers", "datasets", "jaxtyping"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def search(random_translator) -> SearchConfig:
    return dataclasses.replace(random_translator.config.search, num_best=2)


@pytest.fixture(scope="module")
def artefact(random_translator, search) -> Artefact:
    return export_search(random_translator, search)


def rows(tokenizer, sentences: list[str], width: int) -> np.ndarray:
    """The input of the artefact, with a row of padding for an empty sentence."""
    ids = [[*own, tokenizer.end_id] if own else [] for own in tokenizer.encode_batch(sentences)]
    return np.array([[*own, *[tokenizer.pad_id] * (width - len(own))] for own in ids], np.int32)


def texts(tokenizer, ids) -> list[str]:
    """Decodes translations, each to one line, as a translator does."""
    return [text.replace("\r", " ").replace("\n", " ") for text in tokenizer.decode_batch(ids)]


def test_the_artefact_finds_what_the_translator_finds(random_translator, search, artefact):
    tokenizer, sentences = random_translator.tokenizer, SENTENCES
    exported = jax.export.deserialize(bytearray(artefact.program))
    source = rows(tokenizer, sentences, 24)
    tokens, scores, lengths = map(np.asarray, jax.jit(exported.call)(source))
    assert tokens.shape == (len(sentences), 2, 40)
    assert (scores.dtype, lengths.shape) == (np.float32, (len(sentences), 2))
    found = list(random_translator.n_best(sentences, search))
    assert len({best[0].text for best in found}) == len(sentences)
    for row, (sentence, expected) in enumerate(zip(sentences, found, strict=True)):
        if not sentence:
            assert (lengths[row] == 0).all()
            assert (tokens[row] == tokenizer.pad_id).all()
            continue
        assert texts(tokenizer, tokens[row]) == [translation.text for translation in expected]
        assert lengths[row].tolist() == [translation.tokens for translation in expected]
        np.testing.assert_allclose(scores[row], [translation.score for translation in expected], rtol=1e-5)
        for ids, length in zip(tokens[row], lengths[row], strict=True):
            assert ids[length - 1] == tokenizer.end_id
            assert (ids[length:] == tokenizer.pad_id).all()


def test_the_artefact_is_for_all_platforms_and_no_longer_sentence(artefact):
    exported = jax.export.deserialize(bytearray(artefact.program))
    assert exported.platforms == PLATFORMS
    assert exported.in_avals[0].dtype == np.int32
    with pytest.raises(ValueError, match=r"S <= 40|shapes"):
        exported.call(np.ones((1, 41), np.int32))
    about = artefact.about
    assert (about["pad_id"], about["end_id"], about["max_length"], about["search"]["num_best"]) == (0, 2, 40, 2)


def test_constraints_and_ensembles_are_exported_with_the_search(random_translator):
    """With rotary positions in one model, its cache holds rotated keys."""
    rotary = dataclasses.replace(
        random_translator,
        model=Transformer(dataclasses.replace(random_translator.model.config, positions="rotary")),
        params=jax.tree.map(lambda leaf: leaf * 0.9, random_translator.params),
    )
    both = ensemble([random_translator, rotary])
    search = SearchConfig(beam_size=2, extra_length=6, no_repeat_ngram=2, prefix="men", min_length=4)
    source = rows(both.tokenizer, SENTENCES[4:5], 16)
    exported = export_search(both, search, longest=20)
    tokens = jax.export.deserialize(bytearray(exported.program)).call(source)[0]
    assert tokens.shape == (1, 1, 20)
    assert texts(both.tokenizer, np.asarray(tokens[:, 0])) == both.translate(SENTENCES[4:5], search)


def test_a_script_runs_it_with_jax_alone(random_translator, search, artefact, tmp_path):
    (tmp_path / "search").write_bytes(artefact.program)
    (tmp_path / "search.json").write_text(json.dumps(artefact.about))
    tokenizer, sentences = random_translator.tokenizer, SENTENCES
    lines = "".join(f"{' '.join(map(str, ids))}\n" for ids in tokenizer.encode_batch(sentences))
    command = [sys.executable, "-c", ALONE, str(EXAMPLE), str(tmp_path / "search")]
    result = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
    ids = [[int(index) for index in line.split()] for line in result.stdout.splitlines()]
    assert texts(tokenizer, ids) == random_translator.translate(sentences, search)
    for lines, status, message in (
        ("", 0, ""),
        (f"5\n{'5 ' * 40}\n", 2, "A sentence has 40 ids, but the exported search takes at most 39. Split it.\n"),
    ):
        result = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert (result.stdout, result.stderr, result.returncode) == ("", message, status)


def test_what_cannot_be_exported(random_translator, search):
    for changed, max_length, message in (
        (dataclasses.replace(search, sample=True), None, "Sampling cannot be exported, only a beam search"),
        (
            search,
            41,
            r"The longest source \(--longest\) has 41 tokens, but the model has positions for 40\. Give at most 40",
        ),
        (search, 0, "--longest must be at least 1, but is 0"),
        (dataclasses.replace(search, forbidden=("no such token",)), None, "Cannot forbid 'no such token', because it"),
    ):
        with pytest.raises(InputError, match=message):
            export_search(random_translator, changed, max_length)

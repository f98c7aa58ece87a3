"""An independent witness: the `MarianMTModel` of transformers on PyTorch, both ways."""

import dataclasses
import io
import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from transformer import parameters
from transformer.config import Config, DataConfig, ModelConfig, SearchConfig, TokenizerConfig
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokenizer_marian import MarianTokenizer
from transformer.errors import InputError
from transformer.interop.formats import Request
from transformer.interop.hf_marian import write
from transformer.interop.hf_marian_export import check_expressible
from transformer.interop.hf_marian_weights import POSITIONS
from transformer.interop.importing import import_model
from transformer.model import Transformer
from transformer.run import Run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")

from hf_comparison import differences, outputs  # noqa: E402
from hf_models import SMALL, lines_of_text, write_model, write_tokenizer  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_hf_marian.py"
LINES = lines_of_text(1_000)
ODD_LINES = ["", " ", "ａ①ﬁ e\u0301", "\u200b\u00ad\ufeff", "a\tb\u2028c"]


class Both:
    """A model of Hugging Face with its tokenizer and its folder, and the run that was imported from it."""

    def __init__(self, folder: Path, separate: bool, **settings: Any) -> None:
        self.folder, self.notes = folder / "theirs", list[str]()
        self.tokenizer = write_tokenizer(self.folder, LINES, 800, separate)
        self.theirs = write_model(self.folder, self.tokenizer, slope=0.5, **SMALL, **settings)
        run, self.format = import_model(self.folder, folder / "run", say=self.notes.append)
        self.run: Any = run


MODELS: dict[str, dict[str, Any]] = {
    "joint": {"separate": False, "activation_function": "swish"},
    "separate": {"separate": True, "share_encoder_decoder_embeddings": False, "activation_function": "gelu"},
    "untied": {"separate": False, "tie_word_embeddings": False, "activation_function": "relu"},
}


@pytest.fixture(scope="module", params=MODELS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp(request.param), **MODELS[request.param])


def test_logits_and_hidden_states_are_equal(both: Both) -> None:
    assert both.format == "hf-marian"
    assert both.notes == []
    theirs, ours = outputs(both.run, both.theirs, both.tokenizer, LINES[:16])
    for name, expected, computed in zip(theirs._fields, theirs, ours, strict=True):
        np.testing.assert_allclose(computed, expected, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("both", "beam_size"), [("joint", 4), ("separate", 1)], indirect=["both"])
def test_translations_are_equal(both: Both, beam_size: int) -> None:
    assert differences(both.run, both.theirs, both.tokenizer, LINES[:60], beam_size) == []


def test_token_ids_and_texts_are_equal(both: Both) -> None:
    ours, theirs = both.run.tokenizer, both.tokenizer
    languages = [f">>fra<<{rest}" for rest in ("", " a", "b")] if ">>fra<<" in theirs.encoder else []
    lines = [*LINES, *ODD_LINES, *languages]
    sources, targets = theirs(lines).input_ids, theirs(text_target=lines).input_ids
    assert [[*ids, 0] for ids in ours.source.encode_batch(lines)] == sources
    assert [[*ids, 0] for ids in ours.target.encode_batch(lines)] == targets
    known = [ids for ids in targets if 1 not in ids]
    assert ours.target.decode_batch(known) == theirs.batch_decode(known, skip_special_tokens=True)


def test_an_exported_model_is_the_one_that_was_imported(both: Both, tmp_path: Path) -> None:
    said = write(both.run, Request(tmp_path, tmp_path / "exported", both.run.config.search))
    assert said.endswith("for transformers.MarianMTModel")  # and no differences
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path / "exported")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(both.theirs.state_dict()[name], tensor), name
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert type(tokenizer) is type(both.tokenizer)
    assert tokenizer(LINES).input_ids == both.tokenizer(LINES).input_ids
    again, _ = import_model(tmp_path / "exported", tmp_path / "again")
    assert dataclasses.replace(again.config, run_dir=both.run.config.run_dir) == both.run.config
    assert again.tokenizer.fingerprint == both.run.tokenizer.fingerprint
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, both.run.params))


@pytest.mark.parametrize("both", ["joint"], indirect=True)
def test_a_table_of_positions_that_no_formula_gives_is_kept(both: Both, tmp_path: Path) -> None:
    folder = shutil.copytree(both.folder, tmp_path / "trained")
    table = np.random.default_rng(0).uniform(-1, 1, (64, 64))  # as large as sines
    tensors = load_file(folder / "model.safetensors")
    tensors |= dict.fromkeys(POSITIONS, table.astype(np.float32))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    run, _ = import_model(folder, tmp_path / "run")
    assert run.config.model.positions == "learned"
    model = transformers.MarianMTModel.from_pretrained(folder)
    theirs, ours = outputs(run, model, both.tokenizer, LINES[:16])
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-4)
    said = write(run, Request(tmp_path, tmp_path / "exported", run.config.search))
    assert "save_pretrained leaves it out, and then transformers computes other positions." in said
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    for name in POSITIONS:
        np.testing.assert_array_equal(exported[name], tensors[name])


@pytest.mark.parametrize("both", ["joint"], indirect=True)
def test_the_example_translates_as_the_model_that_was_imported(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(both.run, Request(tmp_path, tmp_path / "exported", both.run.config.search))
    monkeypatch.setattr(sys, "argv", ["run_hf_marian.py", str(tmp_path / "exported")])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(LINES[:3])))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    for line, said in zip(LINES[:3], capsys.readouterr().out.splitlines(), strict=True):
        ids = both.theirs.generate(**both.tokenizer([line], return_tensors="pt"))
        assert said == both.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]


def run_of(tokenizer: Any, config: Config) -> Run:
    model = Transformer(config.model)
    drawn = parameters.draw(model, 0)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), drawn)
    return Run(config, model, params, tokenizer)


TINY = ModelConfig(
    d_model=32,
    num_heads=4,
    d_ff=48,
    num_encoder_layers=1,
    num_decoder_layers=1,
    max_positions=128,
    norm_epsilon=1e-5,
    dtype="float32",
)
DATA = DataConfig(max_length=128)


def test_the_paper_s_model_with_our_own_tokenizer_computes_the_same_there(tmp_path: Path) -> None:
    """Its positions are in another order, it has fewer biases, and its text is normalized."""
    tokenizer = BpeTokenizer.train(LINES, 1000, TokenizerConfig(), "nfc")
    search = SearchConfig(beam_size=1, max_length=20)
    config = Config(data=DATA, model=dataclasses.replace(TINY, vocabulary_size=1000), search=search)
    run = run_of(tokenizer, config)
    said = write(run, Request(tmp_path, tmp_path / "exported", search))
    assert said.splitlines()[1:] == [
        "Load its tokenizer with AutoTokenizer, because MarianTokenizer only reads SentencePiece."
    ]
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path / "exported")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    lines = [*LINES, *ODD_LINES, "a </s> b <pad>", " \x1c\u3000a\u200bb\xadc e\ufeff\u0301 "]
    assert [[*ids, tokenizer.end_id] for ids in tokenizer.encode_batch(lines)] == their_tokenizer(lines).input_ids
    expected, computed = outputs(run, theirs, their_tokenizer, LINES[:8])
    np.testing.assert_allclose(computed.logits, expected.logits, atol=1e-4)


@pytest.mark.parametrize("both", ["separate"], indirect=True)
def test_a_decoder_that_starts_from_zeros_gets_a_token_for_it(both: Both, tmp_path: Path) -> None:
    """As in a model of Marian: no pad token, and its positions, which Hugging Face reads from a table."""
    files = dict(both.run.tokenizer.files)
    for name in {both.run.tokenizer.source_files.vocabulary, both.run.tokenizer.target_files.vocabulary}:
        files[name] = json.dumps({k: v for k, v in json.loads(files[name]).items() if k != "<pad>"}).encode()
    size = both.run.tokenizer.source.size - 1
    ids = TokenizerConfig(pad_id=size, start_id=size, end_id=0)
    tokenizer = MarianTokenizer(files, both.run.tokenizer.source_files, both.run.tokenizer.target_files, ids)
    changes: dict[str, Any] = {"decoder_start": "zeros", "positions": "halved_t2t", "activation": "gelu_sigmoid"}
    model = dataclasses.replace(TINY, vocabulary_size=size, target_vocabulary_size=size, shared_embeddings="target")
    run = run_of(tokenizer, Config(data=DATA, model=dataclasses.replace(model, **changes), tokenizer=ids))
    said = write(run, Request(tmp_path, tmp_path / "exported", run.config.search))
    assert re.search(r"table of positions \(model.positions=halved_t2t\).* up to \d\.\d\d apart\.", said)
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path / "exported")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    expected, computed = outputs(run, theirs, their_tokenizer, LINES[:8])
    np.testing.assert_allclose(computed.decoder, expected.decoder, atol=1e-4)
    np.testing.assert_allclose(computed.logits, expected.logits[:, :size], atol=1e-4)
    assert expected.logits[:, size].max() < -1e8
    again, _ = import_model(tmp_path / "exported", tmp_path / "again")
    assert again.config.model.positions == "halved_t2t"


@pytest.mark.parametrize(
    "change", [{"norm": "rms"}, {"norm": "batch"}, {"norm_position": "pre"}, {"positions": "rotary"}]
)
def test_what_their_model_cannot_express_is_refused(change: dict[str, Any]) -> None:
    (field, value), *_ = change.items()
    with pytest.raises(InputError, match=f"has no model.{field}={value}"):
        check_expressible(Config(data=DATA, model=dataclasses.replace(TINY, **change)))

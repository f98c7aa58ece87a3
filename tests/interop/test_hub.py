"""Models by their names on the Hugging Face Hub: which files are asked for, and what is said offline.

Nothing is downloaded. `snapshot_download` is replaced by a copy of the files that it would download from a repository.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from command_line import assert_refused, call
from huggingface_hub.utils import filter_repo_objects

import transformer
from transformer.interop.hub import download
from transformer.run import Run

NAME = "Helsinki-NLP/opus-mt-en-de"
TOKENIZER = {"tokenizer_config.json", "vocab.json", "source.spm", "target.spm"}
TEXTS = {"config.json", "generation_config.json", *TOKENIZER}
# What real repositories also have: other formats, text about the model, and code.
UNWANTED = {"README.md", ".gitattributes", "tf_model.h5", "rust_model.ot", "flax_model.msgpack", "modeling_marian.py"}


class Hub(NamedTuple):
    """A repository, the folder that its files are downloaded to, and the names that were asked for."""

    repository: Path
    cache: Path
    asked: list[str]

    def snapshot_download(self, name: str, allow_patterns: list[str]) -> str:
        self.asked.append(name)
        self.cache.mkdir(exist_ok=True)
        for file in filter_repo_objects(
            (path.name for path in self.repository.iterdir()), allow_patterns=allow_patterns
        ):
            shutil.copy(self.repository / file, self.cache / file)
        return str(self.cache)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "repository", tmp_path / "cache", [])
    hub.repository.mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return hub


@pytest.mark.parametrize(
    ("weights", "calls", "expected"),
    [
        ({"model.safetensors", "pytorch_model.bin"}, 1, "model.safetensors"),
        ({"pytorch_model.bin"}, 2, "pytorch_model.bin"),
    ],
)
def test_only_the_files_of_a_model_are_downloaded(hub: Hub, weights: set[str], calls: int, expected: str) -> None:
    for name in TEXTS | UNWANTED | weights:
        (hub.repository / name).touch()
    assert download(NAME) == hub.cache
    assert {path.name for path in hub.cache.iterdir()} == TEXTS | {expected}
    assert hub.asked == [NAME] * calls


def test_a_name_is_imported_like_a_folder(hub: Hub, run: Run, run_dir: Path) -> None:
    shutil.rmtree(hub.repository)
    assert call("export", str(run_dir), str(hub.repository), "--to", "hf-marian").status == 0
    result = call("import", NAME, "run")
    assert (result.status, hub.asked) == (0, [NAME])
    imported = transformer.load("run")
    # A token more, which the decoder starts from; everything else is what was exported.
    theirs, ours = (jax.tree.leaves(one.params["params"]["decoder"]) for one in (imported, run))
    for found, expected in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/conftest.py` tells the package huggingface_hub that there is no network."""
    monkeypatch.chdir(tmp_path)
    message = (
        f"error: {NAME} is neither a folder nor a model that could be downloaded from the Hugging Face Hub .* Without "
        "a network, download its files elsewhere and give the folder.$"
    )
    assert_refused(call("import", NAME, "run"), message)
    assert not [*tmp_path.iterdir()]

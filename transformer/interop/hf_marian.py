"""Marian models in the format of Hugging Face's `MarianMTModel`.

Such a model is a folder: config.json, model.safetensors or pytorch_model.bin, and the files of a `MarianTokenizer`. It
may also be a name on the Hugging Face Hub.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer.config import Config, DataConfig, TrainingConfig
from transformer.errors import InputError, require
from transformer.files import new_folder
from transformer.inference.translator import Translator
from transformer.interop.formats import Imported, Request, require_one_model
from transformer.interop.hf_marian_config import read_settings
from transformer.interop.hf_marian_export import export_hf_marian
from transformer.interop.hf_marian_tokenizer import read_tokenizer
from transformer.interop.hf_marian_weights import layout_of, to_params
from transformer.interop.hub import download, is_hub_name
from transformer.interop.json_files import read_object
from transformer.interop.tensor_files import read_tensors


def recognizes(path: Path) -> bool:
    """Tells whether this is a folder with a Marian model of Hugging Face."""
    try:
        return read_object(path / "config.json").get("model_type") == "marian"
    except InputError:
        return False


def read(path: Path) -> Imported:
    """Reads a model, its tokenizer and its settings of generation.

    Args:
        path: A folder, or a name on the hub.

    Raises:
        InputError: A file is missing, damaged or not supported, or the files do not fit each other. Also if an optional
            package is missing, or the hub cannot be reached.
    """
    folder = download(str(path)) if is_hub_name(path) else path
    settings = read_settings(read_object(folder / "config.json"), _object(folder / "generation_config.json"))
    tokenizer = read_tokenizer(folder, settings.tokenizer, settings.model.shared_embeddings != "all")
    for name, size, expected in (
        (tokenizer.source_files.vocabulary, tokenizer.source.size, settings.model.vocabulary_size),
        (tokenizer.target_files.vocabulary, tokenizer.target.size, settings.model.target_size),
    ):
        require(size == expected, f"{folder / str(name)} has {size} tokens, but config.json says {expected}.")
    tensors = read_tensors(folder)
    layout = layout_of(tensors, settings.model.max_positions, settings.model.d_model)
    joint = tokenizer.source_files.vocabulary == tokenizer.target_files.vocabulary
    size = None if joint else settings.model.target_size
    model = dataclasses.replace(settings.model, positions=layout, target_vocabulary_size=size)
    data = _data(_object(folder / "tokenizer_config.json"), model.max_positions)
    config = Config(
        data=data,
        tokenizer=settings.tokenizer,
        model=model,
        training=TrainingConfig(steps=1),
        search=settings.search,
    )
    return Imported(config, to_params(tensors, model), tokenizer, notes=settings.notes)


def write(translator: Translator, request: Request) -> str:
    """Writes a folder that `MarianMTModel.from_pretrained` reads, with its tokenizer.

    Raises:
        InputError: As for `export_hf_marian`.
    """
    require_one_model(translator)
    config = dataclasses.replace(translator.config, search=request.search)
    exported = export_hf_marian(config, translator.tokenizer, translator.params)
    with new_folder(request.path) as folder:
        for name, content in exported.files.items():
            (folder / name).write_bytes(content)
    size = sum(map(len, exported.files.values()))
    return "\n".join([f"{request.path}: {size / 1e6:,.1f} MB, for transformers.MarianMTModel", *exported.notes])


def _object(file: Path) -> dict[str, Any]:
    return read_object(file) if file.is_file() else {}


def _data(about: Mapping[str, Any], positions: int) -> DataConfig:
    """The settings of text: it is not normalized, and the languages are those of tokenizer_config.json."""
    languages = {
        field: about[name]
        for field, name in (("source_language", "source_lang"), ("target_language", "target_lang"))
        if isinstance(about.get(name), str)
    }
    return DataConfig(normalization="none", max_length=min(DataConfig.max_length, positions), **languages)

"""Tokenizers in the files of Hugging Face's `MarianTokenizer` and `PreTrainedTokenizerFast`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer.config import TokenizerConfig
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokenizer_marian import MarianTokenizer, SentencePieceVocabulary, SideFiles
from transformer.errors import InputError
from transformer.files import as_json, read_regular
from transformer.interop.hf_fast_tokenizer import fast_tokenizer

SOURCE, TARGET = SideFiles("source.spm", "vocab.json"), SideFiles("target.spm", "target_vocab.json")
_PAD = "<pad>"


def read_tokenizer(folder: Path, config: TokenizerConfig, may_differ: bool) -> MarianTokenizer:
    """Reads the files of a `MarianTokenizer`.

    A joint vocabulary still has two SentencePiece models.

    Args:
        folder: The folder of the model. Only files of fixed names in it are read, whatever its JSON files say.
        config: The special ids.
        may_differ: Whether the target may have a vocabulary of its own, target_vocab.json.

    Raises:
        InputError: A file is missing or invalid, or the package sentencepiece is not installed.
    """
    separate = may_differ and (folder / str(TARGET.vocabulary)).is_file()
    target = TARGET if separate else TARGET._replace(vocabulary=SOURCE.vocabulary)
    names = sorted({name for name in (*SOURCE, *target) if name is not None})
    try:
        files = {name: read_regular(folder / name) for name in names}
    except OSError as error:
        raise InputError(f"The tokenizer of {folder} cannot be read: {error.filename}: {error.strerror}.") from error
    return MarianTokenizer(files, SOURCE, target, config)


def tokenizer_files(tokenizer: Tokenizer, ids: TokenizerConfig, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Makes the files that `AutoTokenizer.from_pretrained` reads.

    Args:
        tokenizer: The tokenizer of a run.
        ids: The special ids of the exported model, which may have a pad token that the run has not.
        about: Further values of `tokenizer_config.json`.

    Returns:
        The contents of the files, by name.
    """
    if isinstance(tokenizer, BpeTokenizer):
        text, settings = fast_tokenizer(tokenizer)
        files = {"tokenizer.json": text.encode()}
    else:
        assert isinstance(tokenizer, MarianTokenizer)
        source, target = tokenizer.source, tokenizer.target
        assert isinstance(source, SentencePieceVocabulary)
        assert isinstance(target, SentencePieceVocabulary)
        separate = source.ids != target.ids
        files = _side(tokenizer, source, tokenizer.source_files, SOURCE, ids.pad_id)
        written = TARGET if separate else TARGET._replace(vocabulary=SOURCE.vocabulary)
        files |= _side(tokenizer, target, tokenizer.target_files, written, ids.pad_id)
        settings = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": separate}
        settings |= {"pad_token": source.pieces.get(ids.pad_id, _PAD), "unk_token": "<unk>", "eos_token": "</s>"}
    return files | {"tokenizer_config.json": as_json({**settings, **about})}


def _side(
    tokenizer: MarianTokenizer, vocabulary: SentencePieceVocabulary, names: SideFiles, written: SideFiles, pad_id: int
) -> dict[str, bytes]:
    """The SentencePiece model of one side, and the id of each piece."""
    if pad_id in vocabulary.pieces and str(names.vocabulary).endswith(".json"):
        ids = tokenizer.files[str(names.vocabulary)]
    else:
        ids = as_json(vocabulary.ids if pad_id in vocabulary.pieces else {**vocabulary.ids, _PAD: pad_id})
    return {written.model: tokenizer.files[names.model], str(written.vocabulary): ids}

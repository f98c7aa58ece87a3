"""SentencePiece models, read strictly."""

from typing import TYPE_CHECKING

from transformer.errors import InputError, require
from transformer.runtime import require_package

if TYPE_CHECKING:
    import sentencepiece


def load_processor(model: bytes, name: str) -> "sentencepiece.SentencePieceProcessor":
    """Makes a processor of the bytes of a SentencePiece model.

    Raises: InputError if they are no such model, or the package sentencepiece is not installed.
    """
    require_package("sentencepiece")
    import sentencepiece

    require(model != b"", f"{name} is not a SentencePiece model: it is empty.")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise InputError(f"{name} is not a SentencePiece model.") from error


def pieces(processor: "sentencepiece.SentencePieceProcessor", name: str) -> dict[str, int]:
    """The ids of a model's pieces.

    Raises: InputError if a piece is not UTF-8, which SentencePiece does not check.
    """
    try:
        return {processor.id_to_piece(index): index for index in range(processor.vocab_size())}
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not a SentencePiece model: a piece is not UTF-8.") from error

"""Reading the tokenizer of a run, of whichever kind."""

from pathlib import Path

from transformer.config import Config
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokenizer_marian import FORMAT, MarianTokenizer
from transformer.errors import InputError
from transformer.files import read_json


def load_tokenizer(path: str | Path, config: Config) -> Tokenizer:
    """Reads a `tokenizer.json`, from `Tokenizer.save` or in the Hugging Face format.

    Args:
        path: The file.
        config: The config of the run, which has the special ids, the numbers of tokens and the normalization.

    Raises: InputError if the file is missing, is not a tokenizer, or does not fit the config. Also if it needs a
        package that is not installed.
    """
    model, normalization = config.model, config.data.normalization
    if _format(path) == FORMAT:
        sizes = model.vocabulary_size, model.target_size
        return MarianTokenizer.load(path, config.tokenizer, sizes, normalization)
    return BpeTokenizer.load(path, config.tokenizer, model.vocabulary_size, normalization)


def _format(path: str | Path) -> str | None:
    """What the file says that it is. None for a file of the package `tokenizers`, or one that cannot be read."""
    try:
        content = read_json(path)
    except InputError:
        return None  # reading it as one of that package gives the reason
    return content.get("format") if isinstance(content, dict) else None

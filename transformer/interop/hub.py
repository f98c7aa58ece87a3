"""Models on the Hugging Face Hub."""

import re
from pathlib import Path

from transformer.errors import InputError

_TEXTS = ("config.json", "generation_config.json", "tokenizer_config.json", "*vocab.json", "source.spm", "target.spm")


def is_hub_name(path: Path) -> bool:
    """Whether a path that does not exist has the form of a name on the hub, OWNER/MODEL.

    Args:
        path: What the user gave as the path of a model.
    """
    return not path.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) is not None


def download(name: str) -> Path:
    """Downloads a Marian model, or finds it in the cache of the package huggingface_hub.

    Args:
        name: Name of the model, such as `Helsinki-NLP/opus-mt-en-de`.

    Returns:
        The folder of the files.

    Raises:
        InputError: There is no network, or no such model.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_TEXTS, "model.safetensors"]))
        if not (folder / "model.safetensors").is_file():  # older models only have the other file
            folder = Path(snapshot_download(name, allow_patterns=[*_TEXTS, "pytorch_model.bin"]))
    except Exception as error:  # failures of network, names and authorization have no common base class
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{name} is neither a folder nor a model that could be downloaded from the Hugging Face Hub ({reason}). "
            "Without a network, download its files elsewhere and give the folder."
        ) from error
    return folder

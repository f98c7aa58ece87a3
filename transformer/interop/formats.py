"""The formats that models come from and go to, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from transformer.config import Config, SearchConfig
from transformer.data.tokenizer import Tokenizer
from transformer.errors import require
from transformer.runtime import require_package
from transformer.shapes import Params

if TYPE_CHECKING:
    from transformer.inference.translator import Translator

Import = Literal["marian", "hf-marian"]
Export = Literal["stablehlo", "marian", "hf-marian", "ctranslate2", "safetensors"]

IMPORTS: Mapping[Import, str] = MappingProxyType(
    {
        "marian": "Marian's model.npz with its SentencePiece vocabularies",
        "hf-marian": "a folder of Hugging Face's MarianMTModel, or its name on the hub",
    }
)
"""What can be imported, by the name that `--from` takes."""

EXPORTS: Mapping[Export, str] = MappingProxyType(
    {
        "stablehlo": "encoder and search as one StableHLO file for JAX",
        "marian": "a folder with model.npz and the vocabularies, for Marian",
        "hf-marian": "a folder with model.safetensors and the tokenizer, for Hugging Face's MarianMTModel",
        "ctranslate2": "a folder with the model and its tokenizer, for CTranslate2",
        "safetensors": "a folder with the parameters as model.safetensors, and the tokenizer",
    }
)
"""What can be exported, by the name that `--to` takes."""


@dataclass(frozen=True)
class Imported:
    """A model of another program, as this package represents it.

    Attributes:
        config: Architecture, special ids and search settings.
        params: The first argument of `Transformer.apply`, as float32 NumPy arrays.
        tokenizer: The tokenizer.
        kept: Further files that the run directory keeps, so that an export can restore them, by name.
        notes: What the run leaves out, as sentences.
    """

    config: Config
    params: Params
    tokenizer: Tokenizer
    kept: Mapping[str, bytes] = field(default_factory=dict)
    notes: Sequence[str] = ()


def require_one_model(translator: "Translator") -> None:
    """Raises InputError if a translator is an ensemble, which no format but StableHLO can hold."""
    require(not translator.others, "Cannot export an ensemble as one model. Leave out --ensemble.")


@dataclass(frozen=True)
class Request:
    """What an export is asked for.

    Attributes:
        run_dir: The run directory.
        path: The file or folder to write.
        search: Settings of the search.
        longest: Maximum source length in tokens; None if it is not given.
    """

    run_dir: Path
    path: Path
    search: SearchConfig
    longest: int | None = None


# The optional package that the module of a format imports.
_PACKAGES = {"ctranslate2": "ctranslate2", "safetensors": "safetensors"}


def module(name: str) -> Any:
    """Imports the module of a format.

    Raises: InputError if the module needs a package that is not installed.
    """
    if name in _PACKAGES:
        require_package(_PACKAGES[name])
    return import_module(f"transformer.interop.{name.replace('-', '_')}")

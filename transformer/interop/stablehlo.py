"""StableHLO, which JAX runs without this package."""

from pathlib import Path

from transformer.files import as_json, write_whole
from transformer.inference.export import export_search
from transformer.inference.translator import Translator
from transformer.interop.formats import Request


def write(translator: Translator, request: Request) -> str:
    """Writes encoder and beam search as one file, with two small files beside it.

    Raises:
        InputError: As for `inference.export.export_search`.
    """
    file = request.path
    artefact = export_search(translator, request.search, request.longest)
    translator.tokenizer.save(f"{file}.tokenizer.json")
    write_whole(Path(f"{file}.json"), as_json(artefact.about))
    write_whole(file, artefact.program)  # last, so that where it exists the other two do
    return f"{file}: {len(artefact.program) / 1e6:,.1f} MB, maximum length {artefact.about['max_length']} tokens"

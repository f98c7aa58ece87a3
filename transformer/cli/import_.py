"""The `transformer import` command, which makes a run of another program's model."""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from tyro.conf import Positional, arg

from transformer.cli.options import parse
from transformer.interop.formats import Import
from transformer.stages import stage


@dataclass(frozen=True)
class ImportOptions:
    """Make a run directory of another program's model.

    Every command works on it. Nothing is written unless the entire model could be read. docs/interop.md describes what
    can be imported.

        transformer import opus-mt-en-de runs/en-de
        echo "The old dog sleeps." | transformer translate runs/en-de"""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """The file or folder of the model, or its name on the Hugging Face Hub."""
    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The run directory to write, which must not exist."""
    source: Annotated[Import | None, arg(name="from")] = None
    """The format. By default it is recognized."""
    source_language: str | None = None
    """Language code of the source. By default the model's own, or else en."""
    target_language: str | None = None
    """Language code of the target, which decides how translations are scored. By default the model's own, or else
    de."""


def main(arguments: list[str]) -> None:
    """Makes a run directory of another program's model."""
    options = parse(ImportOptions, arguments, "import")
    from transformer.interop.importing import import_model

    languages = {"source_language": options.source_language, "target_language": options.target_language}
    languages = {field: language for field, language in languages.items() if language is not None}
    with stage(f"importing {options.path}", partial(print, file=sys.stderr, flush=True)):
        run, source = import_model(options.path, options.run, options.source, print, **languages)
    print(f"{run.run_dir}: a {source} model with {run.num_parameters:,} parameters")

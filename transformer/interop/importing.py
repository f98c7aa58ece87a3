"""A run directory made of another program's model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from transformer import parameters
from transformer.errors import InputError, require, require_choice
from transformer.interop.formats import IMPORTS, Imported, module
from transformer.interop.hub import is_hub_name
from transformer.model import Transformer
from transformer.run import Run


def import_model(
    path: str | Path,
    run_dir: str | Path,
    source: str | None = None,
    say: Callable[[str], None] = print,
    **data: str,
) -> tuple[Run, str]:
    """Makes a run directory of another program's model.

    The run directory appears when it is complete. Every command works on it.

    Args:
        path: The file or folder of the model, or its name on the hub.
        run_dir: A directory that does not exist.
        source: Name of the format. None recognizes it.
        say: Receives a sentence for each thing that the run leaves out.
        data: Fields of `DataConfig` to set, such as `source_language`.

    Returns:
        The run, and the name of its format.

    Raises:
        InputError: There is no such model, it is not supported or damaged, or `run_dir` exists.
    """
    path, run_dir = Path(path).expanduser(), Path(run_dir).expanduser().resolve()
    require(not run_dir.exists(), f"Cannot import to {run_dir}: it already exists. Give a new directory.")
    found, source = read_model(path, source)
    config = replace(found.config, run_dir=str(run_dir), data=replace(found.config.data, **data))
    run = Run(config, Transformer(config.model, dtype=jnp.float32), found.params, found.tokenizer)
    run.save(run_dir, found.kept)
    for note in found.notes:
        say(note)
    return replace(run, run_dir=run_dir, checkpoints=(config.training.steps,)), source


def read_model(path: Path, source: str | None = None) -> tuple[Imported, str]:
    """Reads and checks another program's model.

    Args:
        path: The file or folder of the model, or its name on the hub.
        source: Name of the format. None recognizes it.

    Returns:
        The model, and the name of its format.

    Raises:
        InputError: There is no such model, or it is not supported or damaged.
    """
    for file in path.iterdir() if path.is_dir() else ():
        require(file.is_file() or file.is_dir(), f"Cannot read {file}: it is neither a file nor a folder.")
    source = recognize(path) if source is None else source
    require_choice("The format (--from)", source, [*IMPORTS])
    found: Imported = module(source).read(path)
    parameters.require_fit(Transformer(found.config.model), found.params)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(found.params):
        name = jax.tree_util.keystr(keys)
        require(bool(np.isfinite(leaf).all()), f"{path} is damaged: {name} has a value that is not finite.")
    return found, source


def recognize(path: Path) -> str:
    """Tells the format of a model.

    Raises:
        InputError: There is no such file or folder, or it is none of the formats.
    """
    if is_hub_name(path):
        return "hf-marian"
    require(path.exists(), f"Cannot import {path}: there is no such file or folder.")
    for name in IMPORTS:
        if module(name).recognizes(path):
            return name
    raise InputError(f"{path} is none of the models that can be imported: {'; '.join(IMPORTS.values())}.")

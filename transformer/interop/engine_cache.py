"""Converted models of runs, kept beside each run.

RUN/ctranslate2/STEP-DIGEST/ is a model in the format of CTranslate2, with a manifest. The digest covers everything that
the model is made of. The folder may be deleted at any time.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from transformer.config import Config
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_files import load_tokenizer
from transformer.files import new_folder
from transformer.inference.loading import load_chosen
from transformer.interop.engine import Engine
from transformer.manifest import damaged_files, has_manifest, write_manifest
from transformer.run_dir import CHECKPOINTS, checkpoint_steps, read_config

FOLDER = "ctranslate2"
FORMAT = 1  # of the conversion; a change of `ctranslate2.py` that changes the files increments it


def load_engine(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int,
    average: int | None,
    compute_type: str,
    say: Callable[[str], None],
) -> Engine:
    """Loads a run for CTranslate2, and converts it first if that has not been done.

    Args:
        run_dir: The run directory. If it cannot be written to, the model is converted into a temporary folder.
        checkpoint: As in `inference.translator.load`.
        average: As in `inference.translator.load`.
        compute_type: One of CTranslate2's compute types.
        say: Receives sentences for the user.

    Raises:
        InputError: As for `inference.translator.load`; or CTranslate2 cannot compute the model, or not like this.
    """
    config = read_config(run_dir)
    tokenizer = load_tokenizer(Path(run_dir) / "tokenizer.json", config)
    model = Path(run_dir) / FOLDER / _key(run_dir, checkpoint_steps(run_dir, checkpoint, average), config, tokenizer)
    if _is_intact(model):
        return Engine(model, config, tokenizer, compute_type)
    steps, params = load_chosen(run_dir, checkpoint, average, tokenizer.fingerprint, say)
    from transformer.interop.ctranslate2 import make_spec  # imports torch, if that is installed

    spec = make_spec(config.model, params["params"], tokenizer)
    model = model.with_name(_key(run_dir, steps, config, tokenizer))
    try:
        _write(model, spec)
    except OSError as error:
        say(f"Cannot keep the converted model in {model.parent} ({error.strerror}). It is converted each time.")
        with TemporaryDirectory() as folder:
            spec.save(folder)
            return Engine(Path(folder), config, tokenizer, compute_type)
    return Engine(model, config, tokenizer, compute_type)


def _key(run_dir: str | Path, steps: Sequence[int], config: Config, tokenizer: Tokenizer) -> str:
    """Names what a model is made of: checkpoints, architecture and tokens.

    Orbax's metadata of a checkpoint has the nanosecond at which it was written.
    """
    checkpoints = [Path(run_dir) / CHECKPOINTS / str(step) / "_CHECKPOINT_METADATA" for step in steps]
    written = [file.read_text(encoding="utf-8") for file in checkpoints]
    made_of = [FORMAT, steps, written, dataclasses.asdict(config.model), tokenizer.fingerprint]
    return f"{steps[-1]}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"


def _write(model: Path, spec: Any) -> None:
    """Writes a model in place of a damaged one, unless another process does so first."""
    model.parent.mkdir(exist_ok=True)
    shutil.rmtree(model, ignore_errors=True)
    try:
        with new_folder(model) as folder:
            spec.save(str(folder))
            write_manifest(folder)
    except OSError:
        if not _is_intact(model):
            raise


def _is_intact(model: Path) -> bool:
    return has_manifest(model) and not damaged_files(model, [])

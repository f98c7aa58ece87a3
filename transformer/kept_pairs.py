"""The validation and test sets in a run directory."""

import dataclasses
import json
from pathlib import Path

from transformer.config import DataConfig
from transformer.data.corpus import Pairs, read_files
from transformer.errors import InputError
from transformer.files import write_lines
from transformer.run_dir import data_fingerprints

KEPT = {"validation": "validation.jsonl", "test": "test.jsonl"}  # copied to the run directory, so that it can be moved


def keep_pairs(file: Path, pairs: Pairs, config: DataConfig) -> None:
    """Copies sentence pairs to a file in the run directory, as JSONL."""
    rows = pairs.rows(config.source_language, config.target_language)
    write_lines(file, (json.dumps(row, ensure_ascii=False) for row in rows))


def read_test_set(run_dir: str | Path, config: DataConfig) -> Pairs:
    """Reads the test set from the run directory.

    Raises: InputError if the run has none, or its sentences have changed.
    """
    return _read_kept(run_dir, "test", config)


def read_validation_set(run_dir: str | Path, config: DataConfig) -> Pairs:
    """Reads the validation set from the run directory.

    It is never read from what the config names, which anyone may have written. Version 0.1 kept no copy.

    Raises: InputError if the run has none, or its sentences have changed.
    """
    return _read_kept(run_dir, "validation", config)


def _read_kept(run_dir: str | Path, split: str, config: DataConfig) -> Pairs:
    file = Path(run_dir) / KEPT[split]
    if not file.is_file():
        raise InputError(f"The run in {run_dir} has no {split} set. Give --source and --reference.")
    kept = read_files((str(file),), dataclasses.replace(config, tags=None), empty="keep")[0]  # tags are under `tags`
    if data_fingerprints(run_dir).get(split) not in (None, kept.fingerprint):
        raise InputError(
            f"The {split} pairs of the run in {run_dir} differ from those it was trained with. Restore the file, or "
            "give --source and --reference."
        )
    return kept

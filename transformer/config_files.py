"""Configs in files: `config.json` of a run directory, and experiments such as `configs/multi30k.py`."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from transformer.config import Config
from transformer.config.bounds import fits
from transformer.errors import InputError, require

REMOVED = {"training.num_shapes"}  # fields of version 0.1 that a run's config.json may still have
REPLACED = {  # values of before, and the fields that say the same now
    ("data.corpus", "grammar"): {"corpus": "package:quickstart.jsonl.xz"},
}
ABSENT = {("data", "normalization"): "none"}  # what a config.json means that was written before there was this field


def to_json(config: Any) -> str:
    """The config as indented JSON, every field named."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> Config:
    """The config that `to_json` wrote.

    Raises: InputError if the text is not JSON, or a field is unknown or fails its check.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"The config is not valid JSON ({error}).") from error
    return _from_dict(Config, values, "")


def _from_dict(cls: Any, values: Any, where: str) -> Any:
    require(
        isinstance(values, dict), f"The config's {where.removesuffix('.') or 'top level'} must be an object of fields."
    )
    values = {name: value for name, value in values.items() if f"{where}{name}" not in REMOVED}
    for (part, field), value in ABSENT.items():
        if where == f"{part}.":
            values = {field: value} | values
    for (field, before), now in REPLACED.items():
        if values.get(field.removeprefix(where)) == before:
            values |= now
    hints = {field.name: field.type for field in dataclasses.fields(cls)}
    if unknown := sorted(values.keys() - hints.keys()):
        raise InputError(
            f"The config has no field {where}{unknown[0]}; it was written by another version of this library. Evaluate "
            "it with that version."
        )
    return cls(**{name: _from_value(value, hints[name], f"{where}{name}.") for name, value in values.items()})


def _from_value(value: Any, hint: Any, where: str) -> Any:
    """What JSON writes differently: parts of the config as objects, tuples as lists, perhaps 1.0 as 1."""
    if dataclasses.is_dataclass(hint):
        return _from_dict(hint, value, where)
    if isinstance(value, list):
        return tuple(value)
    if type(value) is not int or not fits(0.5, hint):
        return value
    require(abs(value) <= sys.float_info.max, f"The config's field {where.removesuffix('.')} is too large a number.")
    return float(value)


def experiments() -> dict[str, Path]:
    """The experiments that come with the project, by name: in a wheel inside the package, in a checkout beside it."""
    package = Path(__file__).parent
    folder = next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())
    return {file.stem: file for file in sorted(folder.glob("*.py"))}


def load_config(experiment: str) -> Config:
    """The config of an experiment.

    Args:
        experiment: the name of one that comes with the project, such as `multi30k`, or the path of a Python file that
            defines `config`.

    Raises: InputError if the file is missing, fails when run, or defines no `config` of type `Config`.
    """
    shipped = experiments()
    file = shipped.get(experiment, Path(experiment))
    require(
        file.is_file(),
        f"There is no config file {experiment}. Give the path of a Python file that defines `config`, or the name of "
        f"an experiment that comes with the project: {', '.join(shipped)}.",
    )
    require(file.suffix == ".py", f"A config file is a Python file that defines `config`, but {file} is not a .py.")
    spec = importlib.util.spec_from_file_location(f"transformer_config_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"The config file {file} fails when run: {type(error).__name__}: {error}") from error
    config = getattr(module, "config", None)
    if not isinstance(config, Config):
        raise InputError(f"The config file {file} must define `config`, a transformer.config.Config.")
    return config

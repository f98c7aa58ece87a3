"""Configs in files, as JSON or as Python like `configs/multi30k.py`."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from transformer.config import Config
from transformer.config.bounds import fits
from transformer.errors import InputError, require

REMOVED = {"training.num_shapes"}  # fields of version 0.1 that a run's config.json may still have
REPLACED = {  # former values of a field, and the fields that now mean the same
    ("data.corpus", "grammar"): {"corpus": "package:quickstart.jsonl.xz"},
}
ABSENT = {("data", "normalization"): "none"}  # value of a field in a config.json that predates it


def to_json(config: Any) -> str:
    """Writes a config as indented JSON that names every field.

    Args:
        config: A `Config` or one of its parts.

    Returns:
        The JSON text, ending with a newline.
    """
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> Config:
    """Reads a config that `to_json` wrote.

    Args:
        text: The JSON text. A field that is missing gets its default.

    Returns:
        The config. Fields and values of earlier versions are converted.

    Raises:
        InputError: The text is not JSON, a field is unknown, or a value fails its check.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # also too many digits, and too deep nesting
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
            f"The config has a field {where}{unknown[0]:.100} that this version of transformer-jax does not know. Use "
            "the version that wrote the config."
        )
    return cls(**{name: _from_value(value, hints[name], f"{where}{name}.") for name, value in values.items()})


def _from_value(value: Any, hint: Any, where: str) -> Any:
    """Converts a value of JSON to the type of its field.

    Objects become parts of the config, lists become tuples, and whole numbers become floats where needed.
    """
    if dataclasses.is_dataclass(hint):
        return _from_dict(hint, value, where)
    if isinstance(value, list):
        return tuple(value)
    if type(value) is not int or not fits(0.5, hint):
        return value
    require(abs(value) <= sys.float_info.max, f"The config's field {where.removesuffix('.')} is too large a number.")
    return float(value)


def experiments() -> dict[str, Path]:
    """Finds the experiments that come with the project.

    They are in `configs/`, which a wheel has inside the package and a checkout has next to it.

    Returns:
        The files, by the name of the experiment.
    """
    package = Path(__file__).parent
    folder = next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())
    return {file.stem: file for file in sorted(folder.glob("*.py"))}


def load_config(experiment: str) -> Config:
    """Loads the config of an experiment.

    Args:
        experiment: Name of an experiment that comes with the project, such as `multi30k`, or path of a Python file
            that defines `config`.

    Returns:
        The experiment's config.

    Raises:
        InputError: The file is missing, fails when run, or defines no `config` of type `Config`.
    """
    shipped = experiments()
    file = shipped.get(experiment, Path(experiment))
    require(
        file.is_file(),
        f"Found no config file {experiment}. Give --config the path of a Python file that defines `config`, or the "
        f"name of an experiment that comes with the project: {', '.join(shipped)}.",
    )
    require(file.suffix == ".py", f"A config file must be a Python file that defines `config`: {file} is not a .py.")
    try:
        defined = runpy.run_path(str(file), run_name=f"transformer_config_{file.stem}")  # leaves no compiled file
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"The config file {file} fails when run: {type(error).__name__}: {error!s:.500}") from error
    config = defined.get("config")
    if not isinstance(config, Config):
        raise InputError(f"The config file {file} must define `config`, a transformer.config.Config.")
    return config

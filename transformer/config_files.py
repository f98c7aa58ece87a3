"""Configs in files: `config.json` of a run directory, and `configs/*.py`."""

import dataclasses
import importlib.util
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from transformer.config import Config, require
from transformer.errors import InputError

REMOVED = {"training.num_shapes"}  # fields of version 0.1 that a run's config.json may still have
REPLACED = {  # values of before, and the fields that say the same now
    ("data.corpus", "grammar"): {"corpus": "package:quickstart.jsonl.xz"},
}


def to_json(config: Any) -> str:
    """The config as indented JSON, every field named."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> Config:
    """The config that `to_json` wrote.

    Raises: InputError if the text is not JSON, or a field is unknown, missing its type, or fails its check.
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
    hints = typing.get_type_hints(cls)
    values = {name: value for name, value in values.items() if f"{where}{name}" not in REMOVED}
    for (field, before), now in REPLACED.items():
        if values.get(field.removeprefix(where)) == before:
            values |= now
    unknown = sorted(set(values) - set(hints))
    require(
        not unknown,
        f"The config has no field {where}{unknown[0] if unknown else ''}; it was written by another version of this "
        "library. Evaluate it with that version.",
    )
    fields = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            fields[name] = _from_dict(hint, value, f"{where}{name}.")
        else:
            fields[name] = _convert(value, hint)
            require(
                _matches(fields[name], hint),
                f"The config's field {where}{name} cannot be {value!r}: it must be of type "
                f"{hint.__name__ if isinstance(hint, type) else str(hint).removeprefix('typing.')}.",
            )
    return cls(**fields)


def _convert(value: Any, hint: Any) -> Any:
    """What JSON writes differently: tuples as lists, whole floats perhaps as integers."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and _matches(float(value), hint):
        return float(value)
    return value


def _matches(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in parts
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_matches(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_matches, value, parts))
    return isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)


def load_config(path: str) -> Config:
    """The `config` of a Python file such as `configs/multi30k.py`.

    Raises: InputError if the file is missing, fails when run, or defines no `config` of type `Config`.
    """
    file = Path(path)
    require(file.is_file(), f"There is no config file {path}. The ones that come with the project are in configs/.")
    require(file.suffix == ".py", f"A config file is a Python file that defines `config`, but {path} is not a .py.")
    spec = importlib.util.spec_from_file_location(f"transformer_config_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"The config file {path} fails when run: {type(error).__name__}: {error}") from error
    config = getattr(module, "config", None)
    require(isinstance(config, Config), f"The config file {path} must define `config`, a transformer.config.Config.")
    return typing.cast(Config, config)

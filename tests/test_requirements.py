"""The versions that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
BOUNDED = re.compile(r"[\w-]+(\[\w+\])?(>=[\d.]+,<[\d.]+|==[\d.]+)")


def requirements() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = settings["project"]
    extras = (requirement for extra in project["optional-dependencies"].values() for requirement in extra)
    return [*settings["build-system"]["requires"], *project["dependencies"], *extras]


def test_every_requirement_has_a_lower_and_an_upper_bound():
    ours = re.compile(r"transformer-jax\[[\w,]+\]")  # another extra
    assert not [name for name in requirements() if not (BOUNDED.fullmatch(name) or ours.fullmatch(name))]


def test_a_package_has_the_same_bounds_wherever_it_is_named():
    found: dict[str, set[str]] = {}
    for requirement in requirements():
        name, bounds = re.split(r"(?=[>=])", requirement, maxsplit=1) if "=" in requirement else (requirement, "")
        found.setdefault(name.partition("[")[0], set()).add(bounds)
    found.pop("transformer-jax")
    assert {name for name, bounds in found.items() if len(bounds) > 1} == set()

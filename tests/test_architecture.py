"""The rules of the rooms: imports, sizes, and what docs/architecture.md says of them."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "transformer"
PAGE = ROOT / "docs" / "architecture.md"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a room imports from rooms below it only (and from itself, where it is a folder).
ROOMS = [
    "errors",
    "interruption",
    "stages",
    "shapes",
    "files",
    "manifest",
    "config",
    "config_files",
    "changes",
    "runtime",
    "launchers",
    "joining",
    "compilation",
    "devices",
    "processes",
    "ops",
    "data",
    "axes",
    "batch_norm",
    "layers",
    "attention",
    "stack",
    "model",
    "parameters",
    "counters",
    "checkpoint_records",
    "run_dir",
    "starts",
    "status",
    "kept_pairs",
    "checkpoint_files",
    "checkpoint_arrays",
    "checkpoint",
    "training",
    "planning",
    "inference",
    "analysis",
    "run",
    "interop",
    "origin",
    "inputs",
    "experiment",
    "cli",
]
FORBIDDEN = {
    "data": {"jax", "flax", "optax", "orbax"},
    "ops": {"flax", "optax", "orbax", "datasets", "tokenizers"},
    "config": {"jax", "flax", "numpy"},
}


def test_the_package_is_complete_without_what_stands_beside_it() -> None:
    """`tools/` makes data for the package; at run time there is no `tools/`, no `tests/` and no `benchmarks/`."""
    beside = {"benchmarks", "configs", "tests", "tools", *(path.stem for path in (ROOT / "tools").rglob("*.py"))}
    for file in FILES:
        assert not {name.split(".")[0] for name in imports(file)} & beside, file


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_a_room_imports_only_from_rooms_below() -> None:
    for file in FILES:
        room = room_of(file)
        if room in ("__init__", "__main__"):  # the public face and the program may name every room
            continue
        below = {*ROOMS[: ROOMS.index(room)], room}
        used = {name.split(".")[1] for name in imports(file) if name.startswith("transformer.")}
        assert used <= below, f"{file}: {room} must not import {used - below}"
        packages = {name.split(".")[0] for name in imports(file)}
        assert not packages & FORBIDDEN.get(room, set()), file


def names(file: Path) -> set[str]:
    """What a file names: variables, attributes, imports and whole strings, but no words in comments or docstrings."""
    found = {part for name in imports(file) for part in name.split(".")}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def test_gradients_are_written_out_in_five_files() -> None:
    rules = {"custom_vjp", "custom_jvp", "custom_gradient", "defvjp"}
    assert [file for file in FILES if names(file) & rules] == [
        PACKAGE / "ops" / "attention_gpu.py",
        PACKAGE / "ops" / "attention_tpu.py",
        PACKAGE / "ops" / "backward.py",
        PACKAGE / "ops" / "backward_loss.py",
        PACKAGE / "ops" / "blockwise.py",
    ]


def test_equations_know_no_backend() -> None:
    """What one backend needs is in `cpu.py`, `attention_gpu.py` and `attention_tpu.py`; `implementation.py` chooses."""
    backends = {
        "cpu",
        "gpu",
        "cuda",
        "tpu",
        "platform",
        "platform_dependent",
        "optimization_barrier",
        "default_backend",
    }
    knowing = {file.name for file in (PACKAGE / "ops").glob("*.py") if names(file) & backends}
    assert knowing - {"attention_gpu.py"} == {"attention_tpu.py", "cpu.py", "implementation.py"}


def test_inference_does_not_know_training() -> None:
    for file in (PACKAGE / "inference").rglob("*.py"):
        assert not any(name.startswith("transformer.training") for name in imports(file))


def test_analysis_does_not_train() -> None:
    for file in (PACKAGE / "analysis").rglob("*.py"):
        assert not any(name.startswith("transformer.training") for name in imports(file))


def test_only_one_room_counts_devices() -> None:
    """The strategies of training and `devices.map_rows` arrange them, and `planning/program.py` those of a target."""
    counting, arranging = (
        {"device_count", "local_device_count", "local_devices"},
        {"Mesh", "make_mesh", "shard_map", "pmap"},
    )
    assert [file for file in FILES if names(file) & counting] == [PACKAGE / "devices.py"]
    known = {file.relative_to(PACKAGE).as_posix() for file in FILES if names(file) & arranging}
    own = {f"training/{name}.py" for name in ("arrangement", "mesh", "parallel")}
    assert known == {"devices.py", "config/parallel.py", "planning/program.py"} | own


def test_no_room_is_a_lumber_room() -> None:
    assert not {file.stem for file in FILES} & {"utils", "helpers", "common", "misc"}


def test_no_file_asks_to_be_two() -> None:
    files = [file for folder in ("transformer", "benchmarks", "tests") for file in (ROOT / folder).rglob("*.py")]
    files = [file for file in files if "peers" not in file.parts]  # each shows how another program is used best
    large = {str(file.relative_to(ROOT)) for file in files if len(file.read_text("utf-8").splitlines()) > 300}
    assert not large


def test_batch_norm_costs_its_own_file() -> None:
    """Elsewhere its statistics are `variables`; a checkpoint's file layout has their old name."""
    naming = {file.relative_to(PACKAGE).as_posix() for file in FILES if "batch_stats" in names(file)}
    assert naming == {"batch_norm.py", "checkpoint_files.py"}
    mapping = {file.relative_to(PACKAGE).as_posix() for file in FILES if "axis_name" in names(file)}
    own = {f"ops/{name}.py" for name in ("backward_loss", "loss", "mapped", "normalization")}
    assert mapping == {"batch_norm.py", "model.py", "training/parallel.py"} | own


def test_the_page_draws_and_describes_every_room() -> None:
    """docs/architecture.md draws all rooms in one picture and describes them in their order."""
    text = PAGE.read_text("utf-8")
    (picture,) = re.findall(r"^┌.*?┘$", text, re.MULTILINE | re.DOTALL)
    assert {*ROOMS} <= {*re.findall(r"\w+", picture)}
    described = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", section(text, "## The rooms"), re.MULTILINE)
    assert described == ROOMS


def test_the_page_names_every_file() -> None:
    """One line for each file of a subpackage, and none for a file that is not there."""
    text = PAGE.read_text("utf-8")
    for folder in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        named = re.findall(r"^\| `([\w./]+)` \|", section(text, f"### {folder.name}/"), re.MULTILINE)
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if path.name != "__init__.py"}
        assert {name for name in named if name.endswith(".py")} == files, folder
        assert len({*named}) == len(named)
        assert all((folder / name).is_file() for name in named)
    for name in re.findall(r"^\| `([\w./]+)` \|", section(text, "### The repository"), re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_rooms_side_by_side_do_not_import_each_other() -> None:
    """In the picture, the boxes of `data` and `ops`, and of `experiment`, `run` and `interop`, are side by side."""
    for file in FILES:
        used = {name.split(".")[1] for name in imports(file) if name.startswith("transformer.")}
        for pair in ({"data", "ops"}, {"experiment", "run"}, {"experiment", "interop"}):
            assert room_of(file) not in pair or not used & (pair - {room_of(file)}), file


def section(text: str, heading: str) -> str:
    """What follows a heading, up to the next one."""
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"{PAGE.name} has no heading {heading}"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]

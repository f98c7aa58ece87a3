"""No code in data is executed, no path in data is followed, and opening a run asks no network."""

import ast
import dataclasses
import json
import os
from pathlib import Path

import pytest
from command_line import call
from limits import Reached, without_compiling, without_network

import transformer
from transformer.config_files import to_json
from transformer.errors import InputError
from transformer.manifest import write_manifest
from transformer.run_dir import read_config

PACKAGE = Path(transformer.__file__).parent
# Functions that execute what they are given, or read a pickle.
EXECUTING = {"eval", "exec", "execfile", "compile", "__import__", "system", "popen", "unsafe_load", "full_load"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch", "code", "runpy"}
EXECUTED_FOR_THE_USER = {"config_files.py": {"runpy"}}  # --config names a Python file
# What may open a connection, and the files that are led there by the user's own names of data sets, models or hosts.
NETWORK = {"urllib", "requests", "httpx", "http", "socket", "ftplib", "aiohttp", "datasets", "huggingface_hub"}
NAMED_BY_THE_USER = {
    "data/corpus.py": {"datasets"},
    "interop/hub.py": {"huggingface_hub"},
    "interruption.py": {"socket"},  # a pair of sockets in the process, by which signals arrive
    "joining.py": {"socket"},  # the coordinator of a job: its name and its port
    "launchers.py": {"urllib"},  # on a Cloud TPU, the machine's own metadata server says how many machines there are
}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call in a file, with the last part of the function's name."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    functions = [(node.func, node) for node in found]
    return [
        (function.id if isinstance(function, ast.Name) else function.attr, node)
        for function, node in functions
        if isinstance(function, ast.Name | ast.Attribute)
    ]


def imported(tree: ast.AST) -> set[str]:
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_package_neither_executes_data_nor_connects(file: Path):
    tree, name = ast.parse(file.read_text("utf-8")), file.relative_to(PACKAGE).as_posix()
    assert imported(tree) & MODULES == EXECUTED_FOR_THE_USER.get(name, set())
    assert imported(tree) & NETWORK == NAMED_BY_THE_USER.get(name, set())
    for function, node in calls(tree):
        is_method_of_re = function == "compile" and isinstance(node.func, ast.Attribute)
        assert function not in EXECUTING or is_method_of_re, f"line {node.lineno} calls {function}"
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        for keyword in ("allow_pickle", "trust_remote_code", "shell"):
            given = keywords.get(keyword, ast.Constant(False))
            assert isinstance(given, ast.Constant), f"line {node.lineno}"
            assert given.value is False, f"line {node.lineno} has {keyword}"
        is_load_of = function == "load" and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value)
        assert is_load_of not in ("np", "numpy", "yaml", "pickle", "torch"), f"line {node.lineno}"


COMMANDS = {
    "translate": (),
    "evaluate": (),
    "tune": (),
    "score": ("--source", "{run}/changes.txt", "--target", "{run}/changes.txt"),
    "heads": ("--sentences", "2"),
    "attention": ("--source", "the dog"),
    "compare": ("{run}",),
    "figures": ("--output", "{run}/figures"),
    "export": ("{run}/exported",),
    "train": ("--config", "quickstart"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_opening_a_run_asks_no_network(run: Path, command: str):
    """Its config names a data set of the hub, a tokenizer at an address, and a run to start from."""
    config = read_config(run)
    data = dataclasses.replace(config.data, corpus="owner/name", train=("train",), test=("test",))
    tokenizer = dataclasses.replace(config.tokenizer, file="https://example.org/tokenizer.json")
    hostile = dataclasses.replace(config, data=data, tokenizer=tokenizer, init_from="https://example.org/run")
    (run / "config.json").write_text(to_json(hostile))
    (run / "changes.txt").write_text("the dog\n")
    for name in ("test.jsonl", "validation.jsonl"):  # short ones
        (run / name).write_text('{"en": "the dog", "de": "der hund"}\n')
    (run / "hypotheses.txt").write_text("der hund\n")
    (run / "data.json").unlink()
    first = ["--run-dir", str(run)] if command == "train" else [str(run)]
    with without_network(), without_compiling():
        try:
            result = call(command, *first, *(part.format(run=run) for part in COMMANDS[command]), stdin="the dog\n")
        except Reached:
            return
    assert command in ("compare", "train"), result.err
    assert result.status == (2 if command == "train" else 0), result.err  # train has another config, and says so
    with without_network():
        assert transformer.load(run).num_parameters > 0


def test_paths_in_a_checkpoint_lead_nowhere(run: Path, tmp_path: Path):
    """Metadata, manifest and tokenizer name files outside the run, which are neither read nor written."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    before = secret.stat().st_mtime_ns
    checkpoint = run / "checkpoints" / "20"
    fields = {"_CHECKPOINT_METADATA": '"fingerprint": "', "params/_METADATA": "embedding"}
    for name, field in fields.items():
        file = checkpoint / name
        text = file.read_text()
        for path in (str(secret), "../../../../secret"):
            file.write_text(text.replace(field, f"{field}{path}"))
            (checkpoint / "SHA256SUMS").unlink()
            write_manifest(checkpoint)
            with pytest.raises(InputError, match=r"another tokenizer|damaged|cannot be read|do not fit"):
                transformer.load(run, 20)
        file.write_text(text)
    names: dict[str, str | None] = {"model": str(secret), "vocabulary": None}
    for path in (str(secret), "../secret", "..", ".", None):
        names["model"] = path
        listed = {"format": "marian", "source": names, "target": names, "suppressed": []}
        (run / "tokenizer.json").write_text(json.dumps(listed))
        with pytest.raises(InputError, match="tokenizer") as raised:
            transformer.load(run)
        assert "secret\n" not in str(raised.value)
    assert (secret.read_text(), secret.stat().st_mtime_ns) == ("secret", before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "secret"]


def test_a_pipe_in_a_run_is_refused(run: Path):
    for name in ("config.json", "tokenizer.json", "test.jsonl", "data.json", "checkpoints/20/_CHECKPOINT_METADATA"):
        file = run / name
        content = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        result = call("evaluate", str(run), "--checkpoint", "20")
        assert (result.status, "Traceback" in result.err) == (2, False)
        file.unlink()
        file.write_bytes(content)

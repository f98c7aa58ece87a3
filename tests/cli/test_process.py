"""Processes that start with closed streams, invalid arguments or invalid settings in the environment."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from command_line import ROOT, Result, assert_refused, call

from transformer.cli import main, process, usage
from transformer.config import Config
from transformer.errors import InputError
from transformer.runtime import require_bootstrap_seed

PROGRAM = [sys.executable, "-c", "import sys; from transformer.cli import main; sys.exit(main())"]


def run(*arguments: str | bytes, redirection: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, started by a shell."""
    command: list[str | bytes] = ["bash", "-c", f'exec "$@" {redirection}', "bash", *PROGRAM, *arguments]
    variables = {"PYTHONPATH": str(ROOT), **os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=60)


@pytest.mark.parametrize(
    ("argument", "environment", "message"),
    [
        (b"--run-dir=\xff", {"PYTHONUTF8": "1"}, r"'--run-dir=\\udcff' is not UTF-8\. Use UTF-8"),
        ("--run-dir=Übung", {"LC_ALL": "C", "PYTHONUTF8": "0"}, r"is not ASCII, .* UTF-8 locale or with PYTHONUTF8=1"),
        ("Übung", {"LC_ALL": "C", "PYTHONUTF8": "0"}, r"The argument '\\udcc3\\udc9cbung' is not ASCII"),
    ],
)
def test_an_argument_that_is_not_text(argument, environment, message):
    found = run("train", argument, **environment)
    assert found.stdout == ""
    assert_refused(Result(found.returncode, found.stdout, found.stderr), message)


def test_a_lone_surrogate_from_python():
    assert_refused(call("translate", "run", "--prefix", "\ud800"), r"'\\ud800' is not UTF-8")


def test_a_file_name_that_cannot_be_encoded(monkeypatch):
    def fail(_: list[str]) -> None:
        "Übung".encode("ascii")

    monkeypatch.setattr("transformer.cli.train.main", fail)
    assert_refused(call("train"), r"Cannot encode '\\xdcbung' as ascii\. Set PYTHONUTF8=1\.")


@pytest.mark.parametrize(
    ("command", "redirection", "message"),
    [
        ("translate", "<&-", "Standard input is closed, so there is nothing to translate"),
        ("evaluate", ">&-", "Standard output is closed. Open it, or redirect it to /dev/null"),
        ("train", "<&- >&-", "Standard output is closed"),
        ("trian", "<&- >&-", "Unknown command trian"),
    ],
)
def test_a_closed_stream(command, redirection, message):
    found = run(command, "none", redirection=redirection)
    assert found.stdout == ""
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert message in found.stderr


def test_a_closed_standard_error_says_nothing_elsewhere():
    found = run("evaluate", "none", redirection="2>&-")
    assert (found.returncode, found.stdout, found.stderr) == (2, "", "")


def test_no_other_file_gets_the_number_of_a_closed_stream(tmp_path: Path):
    program = (
        "import os, sys; from transformer.cli import main; main(['trian']); print('lost', file=sys.stderr)\n"
        f"os._exit(os.open({str(tmp_path / 'file')!r}, os.O_CREAT))"
    )
    command = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", sys.executable, "-c", program]
    found = subprocess.run(command, env={"PYTHONPATH": str(ROOT), **os.environ}, timeout=60)
    assert found.returncode > 2


@pytest.mark.parametrize(
    ("seed", "usable"), [("abc", False), ("-1", False), ("1.5", False), ("none", True), ("7", True)]
)
def test_the_seed_of_sacrebleu(monkeypatch, seed, usable):
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    if usable:
        require_bootstrap_seed()
    else:
        message = f"error: SACREBLEU_SEED must be a non-negative integer or none, but is '{seed}'"
        assert_refused(call("evaluate", "none"), message)


def test_errors_name_options_as_typed():
    with (
        pytest.raises(InputError, match=r"^--top-k and --top-p, but not model\.d_model\.$"),
        process.options_of("search"),
    ):
        raise InputError("search.top_k and --search.top-p, but not model.d_model.")
    with (
        pytest.raises(InputError, match=r"^--layout=halved needs --d-model$"),
        process.options_of("model", positions="layout"),
    ):
        raise InputError("model.positions=halved needs model.d_model")


def test_python_m_is_the_same_command_line():
    found = subprocess.run(
        [sys.executable, "-m", "transformer", "--help"],
        env={"PYTHONPATH": str(ROOT), **os.environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (found.returncode, found.stdout) == (0, f"{usage()}\n")


def test_the_home_directory_in_an_option(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert process.expand_home("--run-dir=~/runs/a") == f"--run-dir={tmp_path}/runs/a"
    assert process.expand_home("--output=~") == f"--output={tmp_path}"
    for other in ("~/a", "--prefix=~20", "--source=a~/b", "--json", "x=~/y"):
        assert process.expand_home(other) == other
    assert Config(run_dir="~/runs/a").run_dir == f"{tmp_path}/runs/a"
    monkeypatch.chdir(tmp_path)
    seen: list[list[str]] = []
    monkeypatch.setattr("transformer.cli.train.main", seen.append)
    assert main(["train", "--run-dir=~/x"]) == 0
    assert seen == [[f"--run-dir={tmp_path}/x"]]


@pytest.mark.parametrize(
    ("arguments", "others", "devices"),
    [
        (["train", "--devices", "8", "--seed", "3"], ["train", "--seed", "3"], 8),
        (["translate", "run", "--devices=2"], ["translate", "run"], 2),
        (["train", "--seed", "3"], ["train", "--seed", "3"], None),
        (["translate", "--", "--devices", "8"], ["translate", "--", "--devices", "8"], None),
    ],
)
def test_the_number_of_devices_is_taken_from_the_arguments(arguments, others, devices):
    assert process.take_devices(arguments) == (others, devices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices"], r"--devices needs a number from 1 to 999, but has no value\."),
        (["--devices="], r"--devices needs a number from 1 to 999, but has no value\."),
        (["--devices", "--seed"], r"from 1 to 999, but has --seed\."),
        (["--devices=2.5"], r"from 1 to 999, but has 2\.5\."),
        (["--devices", "0"], r"from 1 to 999, but has 0\."),
        (["--devices", "1000"], r"from 1 to 999, but has 1000\."),
        (["--devices", "2", "--devices=3"], "--devices is given twice"),
    ],
)
def test_a_number_of_devices_that_is_none(arguments, message):
    assert_refused(call("train", *arguments), message)


def test_devices_are_simulated_in_the_process_of_a_command():
    """It is a process of its own, because JAX fixes the number of devices when it starts."""
    found = run("plan", "--devices=4", "--parallel.fsdp", "8", "--full-rows", JAX_PLATFORMS="cpu")
    assert_refused(
        Result(found.returncode, found.stdout, found.stderr),
        r"--parallel\.fsdp 8 and --parallel\.tensor 1 cannot have 4 devices",
    )


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (
            "train",
            r"Lower --training\.batch-tokens, or raise --training\.accumulation-steps or use "
            r"--model\.rematerialization layer, which do not change the updates, or stop other processes",
        ),
        ("evaluate", r"Lower --batch-tokens \(65,536 .*\) or --beam-size, or stop other processes on the device"),
        ("tune", r"Lower --batch-tokens \(65,536 .*\) or --beams, or stop other processes on the device"),
        ("score", r"Lower --batch-tokens \(65,536 .*\), or stop other processes on the device"),
        ("heads", r"Stop other processes on the device \(see nvidia-smi\)"),
    ],
)
def test_a_device_without_memory_left(monkeypatch, command, advice):
    def fail(_: list[str]) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.\nmore")

    monkeypatch.setattr(f"transformer.cli.{command}.main", fail)
    said = r"^error: The device is out of memory \(Out of memory while trying to allocate 8 bytes\)\. "
    found = call(command)
    assert_refused(found, said + advice)
    assert found.err.count("\n") == 1


def test_other_errors_of_jax_keep_their_traceback(monkeypatch):
    def fail(_: list[str]) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr("transformer.cli.train.main", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        call("train")


def test_watching_does_not_claim_the_gpu_s_memory(corpus, trained):
    """The setting is made before jax has a backend."""
    program = """
import os, sys
from jax._src import xla_bridge
from transformer.cli import evaluate, main
from transformer.errors import InputError

def prepare(_):
    raise InputError(f"{os.environ['XLA_PYTHON_CLIENT_PREALLOCATE']} {xla_bridge.backends_are_initialized()}")

evaluate.prepare = prepare
sys.exit(main(["evaluate", sys.argv[1], "--watch"]))
"""
    for given, expected in ({}, "false"), ({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, "true"):
        variables = {name: value for name, value in os.environ.items() if not name.startswith("XLA_PYTHON")}
        found = subprocess.run(
            [sys.executable, "-c", program, f"{corpus}/run"], capture_output=True, text=True, env=variables | given
        )
        assert (found.returncode, found.stderr) == (2, f"error: {expected} False\n")

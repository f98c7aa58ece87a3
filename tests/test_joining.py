"""Joining the other processes of a job: options, addresses, errors, and two processes that join."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from transformer import cli, joining
from transformer.cli import main
from transformer.errors import InputError
from transformer.joining import HEARTBEAT, WAIT, join
from transformer.launchers import Job

ROOT = Path(__file__).parents[1]
SRUN = Job("srun started 2 processes (SLURM_STEP_NUM_TASKS)", 2, "--processes 2 ...", "slurm", [1], False, "this")
SEVERAL = SRUN._replace(several_machines=True)
POD = Job("This pod belongs to an indexed job of Kubernetes", None, "--processes N ...", "")
TORCHRUN = Job("torchrun started 2 processes (WORLD_SIZE)", 2, "--processes 2 ...", None, [])


@pytest.fixture(autouse=True)
def calls(monkeypatch) -> list[dict]:
    """What JAX is told, instead of joining."""
    found: list[dict] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **settings: found.append(settings))
    monkeypatch.delenv("JAX_LOCAL_DEVICE_IDS", raising=False)
    return found


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Sets what the launcher says: nothing, until it is called."""

    def launched(job: Job | None) -> None:
        monkeypatch.setattr(joining, "find_job", lambda: job)

    launched(None)
    return launched


@pytest.fixture(autouse=True)
def network(monkeypatch) -> None:
    """Names as on a machine of Debian called `this`."""
    known = {"10.0.0.1": "10.0.0.1", "127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1"}
    known |= {"this": "127.0.1.1", "this.example.com": "127.0.1.1", "other": "127.0.0.1"}

    def resolve(name: str, _: object) -> list:
        if name not in known:
            name.encode("idna")  # as the real one does
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[name], 0))]

    monkeypatch.setattr(joining.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(joining.socket, "gethostname", lambda: "this")
    monkeypatch.setattr(joining, "computes_on_cpu", lambda: False)


def joined(calls: list[dict]) -> dict:
    """What JAX was told, without the time-outs."""
    (settings,) = calls
    times = {name: settings.pop(name) for name in ("initialization_timeout", "heartbeat_timeout_seconds")}
    assert times == {"initialization_timeout": 2 * WAIT, "heartbeat_timeout_seconds": HEARTBEAT}
    return settings


def test_a_process_without_others(calls):
    join(None, None, None)
    join(None, 1, None)
    join("10.0.0.1:1", 1, 0)
    assert calls == []


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (SRUN, {"num_processes": 2, "cluster_detection_method": "slurm", "local_device_ids": [1]}),
        (POD, {"num_processes": None, "cluster_detection_method": None, "local_device_ids": None}),
    ],
)
def test_jax_detects_the_others(calls, launched, job, expected):
    launched(job)
    join(None, None, None)
    assert joined(calls) == expected


def test_the_user_chooses_gpus(calls, launched, monkeypatch):
    launched(SRUN)
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,1")
    join(None, None, None)
    assert joined(calls)["local_device_ids"] is None


def test_a_process_that_would_do_the_work_of_others_again(calls, launched):
    launched(TORCHRUN)
    with pytest.raises(InputError) as error:
        join(None, None, None)
    assert str(error.value) == (
        "torchrun started 2 processes (WORLD_SIZE), but JAX cannot join them by itself. Type --processes 2 ..., or "
        "--processes 1 if this process is to work alone."
    )
    join(None, 1, None)
    assert calls == []


@pytest.mark.parametrize(("job", "gpus"), [(None, []), (SRUN, [1]), (TORCHRUN, []), (POD, [])])
def test_options_come_before_the_launcher(calls, launched, job, gpus):
    launched(job)
    join("[::1]:4321", 3, 2)
    expected = {"coordinator_address": "[::1]:4321", "num_processes": 3, "process_id": 2, "local_device_ids": gpus}
    assert joined(calls) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h:1", 2, None), r"^--process missing\. Several processes need --coordinator HOST:PORT, --processes N and"),
        ((None, 2, None), "^--coordinator and --process missing"),
        ((None, None, 0), "^--coordinator and --processes missing"),
        (("h", 2, 0), r"^--coordinator must be HOST:PORT with a port from 1 to 65535, but is 'h'\."),
        ((":80", 2, 0), "but is ':80'"),
        (("a..b:1", 2, 1), r"^'a\.\.b' is not the name of a machine \("),
        (("h:0", 2, 0), "but is 'h:0'"),
        (("h:65536", 2, 0), "but is 'h:65536'"),
        (("h:1", 2, 2), r"^--process 2 is not one of --processes 2, which are numbered from 0 to 1\."),
        (("h:1", 1, 1), r"^--process 1 is not one of --processes 1"),
    ],
)
def test_options_that_do_not_fit_together(calls, arguments, message):
    with pytest.raises(InputError, match=message):
        join(*arguments)
    assert calls == []


@pytest.mark.parametrize(
    ("host", "job", "right"),
    [
        ("10.0.0.1", None, True),
        ("10.0.0.1", SEVERAL, True),
        ("unknown", None, True),
        ("127.0.0.1", None, True),
        ("localhost", SRUN, True),
        ("127.0.0.1", SEVERAL, False),
        ("localhost", SEVERAL, False),
        ("this", None, True),
        ("this.example.com", SEVERAL, True),
        ("other", None, False),
        ("other", SRUN, False),
    ],
)
def test_a_coordinator_that_leads_each_machine_to_itself(calls, launched, host, job, right):
    launched(job)
    if right:
        join(f"{host}:1", 2, 1)
        assert len(calls) == 1
        return
    with pytest.raises(InputError, match=rf"^The coordinator {host} is a loopback address on this, and"):
        join(f"{host}:1", 2, 1)
    assert calls == []


def test_a_machine_of_slurm_that_leads_to_itself(calls, launched):
    launched(SEVERAL)
    join(None, None, None)
    launched(SEVERAL._replace(coordinator="other"))
    with pytest.raises(InputError, match=r"^The coordinator other is a loopback address on this"):
        join(None, None, None)
    assert len(calls) == 1


def test_cpus_of_several_machines_need_names(calls, launched, monkeypatch):
    """Gloo tells the others what the name of its machine resolves to."""
    monkeypatch.setattr(joining, "computes_on_cpu", lambda: True)
    join("10.0.0.1:1", 2, 1)
    launched(SEVERAL)
    with pytest.raises(InputError, match=r"^this, the name of this machine, resolves to a loopback address, but CPUs"):
        join("10.0.0.1:1", 2, 1)
    monkeypatch.setattr(joining.socket, "gethostname", lambda: "10.0.0.1")
    join("10.0.0.1:1", 2, 1)
    assert len(calls) == 2


def test_a_port_that_is_taken(calls):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^Cannot listen on port {port} \(.*\)\. Give --coordinator another\."):
            join(f"127.0.0.1:{port}", 2, 0)
        join(f"127.0.0.1:{port}", 2, 1)
    assert len(calls) == 1


def test_errors_of_jax(launched, monkeypatch):
    def fail(**_: object) -> None:
        raise RuntimeError("No such service.\n")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    expected = (
        r"^There should be 2 processes at 10\.0\.0\.1:1, but this one cannot join the others \(No such service\)\."
    )
    with pytest.raises(InputError, match=expected + " Check that address"):
        join("10.0.0.1:1", 2, 1)
    launched(POD)
    with pytest.raises(
        InputError, match=r"^This pod .*, but this one cannot .* \(No such service\)\. Type --processes N"
    ):
        join(None, None, None)


def test_commands_that_work_in_one_process(launched, capsys):
    launched(TORCHRUN)
    assert main(["export", "--coordinator", "h:1", "run"]) == 2
    assert "error: transformer export works in one process. Leave out --coordinator" in capsys.readouterr().err
    assert main(["status", "no-such-run"]) == 2
    assert "torchrun" not in capsys.readouterr().err
    assert main(["score", "no-such-run"]) == 2
    assert "error: torchrun started 2 processes" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["score", "--help"])
    assert "--coordinator HOST:PORT --processes N --process I" in " ".join(capsys.readouterr().out.split())


def test_a_process_with_a_wrong_option_leaves_the_others(monkeypatch, capsys):
    left: list[int] = []
    monkeypatch.setattr(cli, "joined", lambda: True)
    monkeypatch.setattr(cli, "leave", left.append)
    monkeypatch.setattr(cli, "_run", lambda _: sys.exit(2))
    assert main(["score", "--no-such-option"]) == 2
    assert left == [2]


PROGRAM = """
import sys, time
from transformer import joining
from transformer.cli import main
from transformer.errors import InputError

def add(_):
    import jax, numpy
    from jax.experimental.multihost_utils import process_allgather

    found = process_allgather(numpy.array(10 + jax.process_index())).sum()
    if jax.process_index() == 1:
        raise InputError(f"Process 1 of {jax.process_count()} fails with {found}.")
    time.sleep(60)

sys.modules["transformer.cli.score"] = type(sys)("score")
sys.modules["transformer.cli.score"].main = add
joining.WAIT, joining.HEARTBEAT, joining.GRACE = int(sys.argv[1]), 3, 1
sys.exit(main(["score", *sys.argv[2:]]))
"""


@pytest.fixture
def start():
    """Starts one of two processes that join at a free port, and ends it after the test."""
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    processes = []

    def start(process: int, wait: int) -> subprocess.Popen[str]:
        options = ("--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(process))
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(wait), *options],
                env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        with process:
            process.kill()


def test_two_processes_join_and_one_that_fails_ends_the_other(start):
    other, failing = start(0, wait=60), start(1, wait=60)
    _, err = failing.communicate(timeout=60)
    assert failing.returncode == 2
    assert "error: Process 1 of 2 fails with 21." in err.splitlines()
    other.communicate(timeout=30)
    assert other.returncode == -signal.SIGABRT


def test_a_partner_that_does_not_come(start):
    process = start(0, wait=1)
    _, err = process.communicate(timeout=60)
    expected = r"error: There should be 2 processes at 127\.0\.0\.1:\d+, but not all came within 1 s\. Check that .*\n"
    assert re.fullmatch(expected, err)
    assert process.returncode == 2

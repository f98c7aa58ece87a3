"""Processes of a job on this machine's CPU, started by the command line."""

import os
import socket
import subprocess
import sys
from typing import NamedTuple

from command_line import ROOT


class Ended(NamedTuple):
    """How a process ended."""

    status: int
    out: str
    err: str


def start(arguments: list[str], devices: int = 1) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "NPROC": "2",  # XLA's threads, by whose number it splits products; otherwise as many as cores, or devices
    }
    return subprocess.Popen(
        [sys.executable, "-m", "transformer", *arguments, "--devices", str(devices)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_job(arguments: list[str], number: int = 2) -> list[subprocess.Popen]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    job = "--coordinator", f"127.0.0.1:{port}", "--processes", str(number)
    return [start([*arguments, *job, "--process", str(process)]) for process in range(number)]


def ends(processes: list[subprocess.Popen], timeout: float = 120) -> list[Ended]:
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]

"""Seconds from the start of a process to its first step, with a cold and a warm compilation cache."""

import json
import os
import subprocess
import sys
import tempfile
import time

from accelerators.record import Record


def run(variant: str, record: Record) -> None:
    """Starts a process twice with one cache, which is empty at first."""
    with tempfile.TemporaryDirectory(prefix="cache-") as cache:
        for temperature in ("cold", "warm"):
            measured = f"{variant}, {temperature} cache"
            record.attempt(measured, lambda: start(variant, cache, record.tiny))


def start(name: str, cache: str, tiny: bool) -> dict[str, float]:
    """Runs `first_step.py` and returns what it measured."""
    command = [sys.executable, "-m", "accelerators.parts.first_step", name, str(time.time()), *["--tiny"] * tiny]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])

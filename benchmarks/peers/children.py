"""Child processes that are measured in turns."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformer.errors import InputError

BENCHMARKS = Path(__file__).parents[1]
PATIENCE = 3600.0  # seconds to wait for one answer: compiling every shape of a large model takes long

PROBE = """
import json, sys
from transformer.runtime import resolve_dtype
dtype, reason = resolve_dtype("auto")
import jax
device = jax.devices()[0]
print(json.dumps({"dtype": dtype, "reason": reason, "platform": device.platform, "device": device.device_kind}))
"""


class ChildError(Exception):
    """A program could not be measured. The message is one line."""


def environment_for(device: str) -> dict[str, str]:
    """Environment variables that hide all devices but one.

    Memory of a GPU is not preallocated, so that waiting programs leave it to the others.
    """
    if device == "gpu":
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]  # ours would use all visible GPUs
        return {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "CUDA_VISIBLE_DEVICES": first}
    return {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def probe(device: str) -> dict[str, Any]:
    """Describes the machine as jax sees it, and the compute dtype for it.

    Raises: InputError if `device` is `gpu` and jax finds no GPU, or if jax does not start.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=os.environ | environment_for(device), capture_output=True, text=True
    )
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    if done.returncode and device == "gpu":
        raise InputError(f"--device gpu needs a GPU, but jax finds none ({reason}). Use --device cpu.")
    if done.returncode:
        raise InputError(f"jax does not start ({reason}). Check its installation.")
    machine = json.loads(done.stdout)
    if device == "cpu":
        machine["device"] = cpu_name()
        machine["cores"] = len(os.sched_getaffinity(0))
    return machine


def command() -> str:
    """The command line of this process, with file names but no directories."""
    script = Path(sys.argv[0]).resolve().relative_to(BENCHMARKS.parent)
    return shlex.join(["python", str(script), *(Path(word).name if os.sep in word else word for word in sys.argv[1:])])


def cpu_name() -> str:
    """The name of the processor, with family and model.

    Virtual machines often have generic names.
    """
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    family, model = known.get("cpu family"), known.get("model")
    return known.get("model name", "unknown") + (f" (family {family}, model {model})" if family and model else "")


class Child:
    """A warm program in its own process, which sleeps between two commands.

    Attributes:
        started: What the program reported about its start, such as `first_step_seconds` and `warm_seconds`.
    """

    def __init__(
        self, name: str, job_file: Path, environment: dict[str, str], device: str, worker: str = "peers.worker"
    ) -> None:
        """Starts the program and waits until it is warm.

        Args:
            name: Name of the program, with a variant after a colon.
            job_file: File of the program's job in JSON.
            environment: Further environment variables.
            device: `cpu` or `gpu`.
            worker: Module that runs the program.

        Raises: ChildError if the program ends before it is warm.
        """
        start = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", worker, name, str(job_file)],
            cwd=BENCHMARKS,
            env={name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
            | environment_for(device)
            | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        first, warm = self._answer(), self._answer()
        self.started = {
            "first_step_seconds": first["first_step"] - start,
            "warm_seconds": warm.pop("warm") - start,
            **warm,
        }

    def ask(self, **command: int) -> dict[str, Any]:
        """Sends a command and returns the answer.

        Raises: ChildError if the program has ended or does not answer in time.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the program has ended, which `_answer` reports with the reason
            print(json.dumps(command), file=self._process.stdin, flush=True)
        return self._answer()

    def stop(self) -> None:
        """Ends the program, by force if it does not end within 30 seconds."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=30)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watch = threading.Timer(PATIENCE, self._process.kill)
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._reader.join(timeout=10)
        reason = next((text for text in reversed(self._errors) if text.strip()), "")
        raise ChildError(f"exit status {status}: {reason.strip()[:300]}")

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line)
            del self._errors[:-200]


def in_turns(
    programs: Sequence[str], start: Callable[[str], Child], turns: int, ask: Callable[[Child, int], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Measures several programs in turns.

    All are started one after the other. Then they take turns (A B C A B C ...), so that a change in the speed of the
    machine affects all of them.

    Args:
        programs: Names of the programs.
        start: Starts a program, given its name, and waits until it is warm.
        turns: Number of turns of each program.
        ask: Makes one measurement, given a program and the number of the turn.

    Returns: For each program, what it reported about its start and the list of its `turns`, or why it `failed`.
    """
    found: dict[str, dict[str, Any]] = {}
    children: dict[str, Child] = {}

    def fail(name: str, error: ChildError) -> None:
        found[name] = {"failed": str(error)}
        print(f"{name} failed: {error}", file=sys.stderr, flush=True)

    try:
        for name in programs:
            print(f"starting {name} ...", file=sys.stderr, flush=True)
            try:
                children[name] = start(name)
                found[name] = children[name].started | {"turns": []}
            except ChildError as error:
                fail(name, error)
        for turn in range(turns):
            print(f"turn {turn + 1} of {turns}", file=sys.stderr, flush=True)
            for name, child in list(children.items()):
                try:
                    found[name]["turns"].append(ask(child, turn))
                except ChildError as error:
                    fail(name, error)
                    children.pop(name).stop()
    finally:
        for child in children.values():
            child.stop()
    return found

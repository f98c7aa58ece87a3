"""Child processes from the parent's side: start, ask, stop; and several of them in turns."""

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
PATIENCE = 3600.0  # seconds for one answer; compiling every shape of a large model takes its time

PROBE = """
import json, sys
from transformer.runtime import resolve_dtype
dtype, reason = resolve_dtype("auto")
import jax
device = jax.devices()[0]
print(json.dumps({"dtype": dtype, "reason": reason, "platform": device.platform, "device": device.device_kind}))
"""


class ChildError(Exception):
    """Why a program could not be measured, in one line."""


def environment_for(device: str) -> dict[str, str]:
    """Only what is measured is seen, and programs that wait leave the accelerator's memory to the others."""
    if device == "gpu":
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]  # ours would use all of several
        return {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "CUDA_VISIBLE_DEVICES": first}
    return {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def probe(device: str) -> dict[str, Any]:
    """The machine as jax sees it, and the compute type for it.

    Raises: InputError if a GPU is asked for and there is none.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=os.environ | environment_for(device), capture_output=True, text=True
    )
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    if done.returncode and device == "gpu":
        raise InputError(f"--device gpu needs a GPU that jax can use, and it finds none ({reason}): use --device cpu.")
    if done.returncode:
        raise InputError(f"jax does not start: {reason}")
    machine = json.loads(done.stdout)
    if device == "cpu":
        machine["device"] = cpu_name()
        machine["cores"] = len(os.sched_getaffinity(0))
    return machine


def command() -> str:
    """The command of this process, as a result shows it: files by their names, wherever they lie."""
    script = Path(sys.argv[0]).resolve().relative_to(BENCHMARKS.parent)
    return shlex.join(["python", str(script), *(Path(word).name if os.sep in word else word for word in sys.argv[1:])])


def cpu_name() -> str:
    """The processor, with family and model: to a guest system, every one of a maker may have the same name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    family, model = known.get("cpu family"), known.get("model")
    return known.get("model name", "unknown") + (f" (family {family}, model {model})" if family and model else "")


class Child:
    """A program in a process of its own, started and warm; it runs on command and sleeps between two."""

    def __init__(
        self, name: str, job_file: Path, environment: dict[str, str], device: str, worker: str = "peers.worker"
    ) -> None:
        """Raises: ChildError if it does not get warm."""
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
        """Raises: ChildError if it has died, or does not answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: the missing answer says so, with the reason
            print(json.dumps(command), file=self._process.stdin, flush=True)
        return self._answer()

    def stop(self) -> None:
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
    """For each program what it said at its start and in its `turns`, or why it `failed`.

    All are started one after the other. Then they take turns, A B C A B C ..., so that none has a better afternoon.

    Args:
        programs: their names.
        start: starts the program of a name, and waits until it is warm.
        turns: how many each has.
        ask: from a program and the number of the turn to what was measured.
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

"""The record of each start of a run, with the versions and devices that it used.

    RUN/starts.jsonl    a JSON object for each start, in order

A process writes its line when it begins to train, and completes it when it ends.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from transformer.config.bounds import fits
from transformer.files import read_log, write_whole
from transformer.interruption import Interrupted

FILE = "starts.jsonl"
PACKAGES = (
    *("transformer-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_dtypes", "tokenizers"),
    *("sacrebleu", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu"),
)
"""The packages that decide what is computed or how it is stored."""
VARIABLES = (
    *("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "JAX_ENABLE_X64"),
    *("JAX_DEFAULT_MATMUL_PRECISION", "JAX_DISABLE_MOST_OPTIMIZATIONS", "NVIDIA_TF32_OVERRIDE"),
    "CUBLAS_WORKSPACE_CONFIG",
)
"""The environment variables that change what is computed. No other variable is recorded."""


class Start(NamedTuple):
    """What a process that trains was started with.

    time: When it started, in UTC (ISO 8601).
    step: Step of the last checkpoint at that time; 0 for a new run.
    command: The command, or `transformer.train` if Python called that function.
    versions: Versions of Python and of those `PACKAGES` that are installed, by name.
    commit: The package's git commit, with `-dirty` if files differ from it; None if it is not known.
    platform: Operating system and machine.
    backend: JAX's backend: `cpu`, `gpu` or `tpu`.
    devices: Number of devices by kind. The kind of a CPU is its model and the number of cores.
    processes: Number of processes that train together.
    strategy: How training is split over the devices: `pmap`, or a mesh with its sizes.
    dtype: The compute dtype, `bfloat16` or `float32`.
    attention: `plain`, or the name of the function that computes attention in training.
    environment: Those `VARIABLES` that are set, by name.
    ended: When the process ended, in UTC; None if it still runs, or was killed.
    reason: Why it ended before its work was done: the name of a signal, or the error message; None if it did not.
    """

    time: str
    step: int
    command: str
    versions: dict[str, str]
    commit: str | None
    platform: str
    backend: str
    devices: dict[str, int]
    processes: int
    strategy: str
    dtype: str
    attention: str
    environment: dict[str, str]
    ended: str | None = None
    reason: str | None = None

    @classmethod
    def now(cls, devices: Iterable[str], **fields: Any) -> "Start":
        """The start of this process.

        Args:
            devices: Kind of each device, as JAX names it.
            fields: The fields that only the caller knows: `step`, `command`, `backend`, `processes`, `strategy`,
                `dtype` and `attention`.
        """
        return cls(
            time=_now(),
            versions={"python": platform.python_version(), **versions(PACKAGES)},
            commit=commit(),
            platform=platform.platform(),
            devices=dict(Counter(processor() if kind == "cpu" else kind for kind in devices)),
            environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
            **fields,
        )

    def differences(self, now: "Start") -> list[str]:
        """What differs between this start and a later one in versions, devices and settings, such as `jax 1 to 2`."""
        before, after = self._compared(), now._compared()
        names = [*before, *(name for name in after if name not in before)]
        pairs = ((name, before.get(name, "none"), after.get(name, "none")) for name in names)
        return [f"{name} {old} to {new}" for name, old, new in pairs if old != new]

    def _compared(self) -> dict[str, str]:
        devices = ", ".join(f"{number} x {kind}" for kind, number in self.devices.items())
        fields = {name: str(getattr(self, name)) for name in ("commit", "processes", "strategy", "dtype", "attention")}
        return {**self.versions, "devices": devices, **fields, **self.environment}


@contextlib.contextmanager
def recorded(run_dir: Path, start: Start, say: Callable[[str], None]) -> Iterator[None]:
    """Records a start, and at the end of the context when and why the process ended.

    The caller must hold the run.

    Args:
        run_dir: The run directory.
        start: The start.
        say: Prints what differs from the previous start, if anything does.
    """
    file, earlier = run_dir / FILE, read_starts(run_dir)
    kept = read_log(file).splitlines()

    def write(start: Start) -> None:
        write_whole(file, b"".join(line + b"\n" for line in (*kept, json.dumps(start._asdict()).encode())))

    write(start)
    if earlier and (changed := earlier[-1].differences(start)):
        say(f"Changed since the last start: {', '.join(changed)}. Results may differ by rounding from now on.")
    reason = None
    try:
        yield
    except BaseException as error:
        reason = error.signal.name if isinstance(error, Interrupted) else str(error) or type(error).__name__
        raise
    finally:
        with contextlib.suppress(OSError):  # the disk may be what failed, which the caller reports
            write(start._replace(ended=_now(), reason=reason))


def read_starts(run_dir: str | Path) -> list[Start]:
    """The starts of a run, in order. Lines that are damaged are left out, and runs of version 0.1 have none."""
    found = []
    for line in read_log(Path(run_dir) / FILE).splitlines():
        with contextlib.suppress(ValueError, TypeError, OverflowError, RecursionError):
            found.append(_start(json.loads(line)))
    return found


def _start(values: dict[str, Any]) -> Start:
    """Raises ValueError or TypeError if the values are not those of a start."""
    start = Start(**{name: value for name, value in dict(values).items() if name in Start._fields})
    for name, hint in get_type_hints(Start).items():
        value = getattr(start, name)
        is_table = get_origin(hint) is dict and isinstance(value, dict)
        if not (all(fits(item, get_args(hint)[1]) for item in value.values()) if is_table else fits(value, hint)):
            raise TypeError(f"{name} has another type")
    for time in (start.time, start.ended or start.time):
        datetime.fromisoformat(time).timestamp()
    return start


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed, by name."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit(package: Path = Path(__file__).parent) -> str | None:
    """The git commit that the package is a checkout of, or was installed from; None if that is not known.

    Args:
        package: The package's folder.

    Returns: 40 hexadecimal digits, followed by `-dirty` if tracked files of the checkout differ from the commit.
    """
    if (package.parent / ".git").exists():
        command = ["git", "-C", str(package.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):  # git is not installed, or refuses another user's folder
            return None
    with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
        source = json.loads(metadata.distribution("transformer-jax").read_text("direct_url.json") or "{}")
        return source.get("vcs_info", {}).get("commit_id")
    return None


def processor() -> str:
    """The CPU's model and the number of cores that this process may use, such as `AMD EPYC 9B14, 2 cores`."""
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

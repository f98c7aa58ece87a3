"""Measure this project on one accelerator, in parts that do not depend on each other.

    python benchmarks/accelerator.py --out FOLDER                   # limit, step and start: at most 270 s
    python benchmarks/accelerator.py --out FOLDER --only kernels    # another part: at most 270 s again
    python benchmarks/accelerator.py --out FOLDER --tiny            # tries the benchmark itself, on a CPU

It needs the package's dependencies except datasets, tyro and pyarrow. The package itself need not be installed. Every
part has processes of its own, one for each variant. Each part is written to FOLDER/PART.json after every variant. At
the end, a table of all parts in the folder is printed.

| part | measures | guaranteed, s |
| --- | --- | ---: |
| limit | the largest speed of matrix products and of a copy | 30 |
| step | steady training steps of base and big, with the default attention and all layers unrolled | 60 + 60 |
| start | seconds from the start of a process to its first logged line, with a cold and a warm cache | 45 + 75 |
| variants | steps of base with scanned layers, and with plain attention | 60 + 60 |
| kernels | attention alone: times, and errors against full float32 | 4 x 60 |
| tests | the tests of `ops`, of the model and of the paper | 240 |
| decode | translation of 1,000 sentences, and the same with Hugging Face Marian and CTranslate2 | 3 x 60 |
| torch | the training step of `nn.Transformer` and Hugging Face Marian, eager and compiled | 2 x 100 |

The first three parts are the default. Their times add up to 270 s, and each other part alone needs no more. A variant
may also use what earlier ones have left of `--budget`. One that exceeds its time or fails is reported by name with the
last line of its error, and what it had measured until then is kept. One that does not start within the budget is
skipped by name.

Of several GPUs, only the first is used.
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

BENCHMARKS = Path(__file__).resolve().parent
sys.path.insert(0, str(BENCHMARKS.parent))  # the package need not be installed

from transformer.starts import versions

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "ctranslate2")
ERRORS = 4000  # characters kept from the end of a failed process's standard error
SHORTEST = 10.0  # seconds: with less left, a variant is skipped


class Part(NamedTuple):
    """One part of the benchmark."""

    variants: dict[str, float]
    """Each with the seconds that it may take at least. Each runs in a process of its own, the most important first."""
    is_default: bool = False


PARTS = {
    "limit": Part({"products and copies": 30}, is_default=True),
    "step": Part({"base fused all": 60, "big fused all": 60}, is_default=True),
    "start": Part({"quickstart": 45, "base": 75}, is_default=True),
    "variants": Part({"base fused 1": 60, "base plain all": 60}),
    "kernels": Part(dict.fromkeys(("flash", "cudnn", "blockwise", "plain"), 60)),
    "tests": Part({"pytest": 240}),
    "decode": Part(dict.fromkeys(("ours", "marian", "ctranslate2"), 60)),
    "torch": Part(dict.fromkeys(("transformer", "marian"), 100)),
}
DEFAULT = [name for name, part in PARTS.items() if part.is_default]
BUDGET = 270.0  # seconds


def main() -> int:
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.budget
    for number, name in enumerate(options.only):
        later = sum(sum(PARTS[other].variants.values()) for other in options.only[number + 1 :])
        run_part(name, options.out, end, later, options.tiny)
    print(table(options.out))
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the results are written")
    only = f"the parts to measure, of {', '.join(PARTS)} (default: {' '.join(DEFAULT)})"
    parser.add_argument("--only", nargs="+", choices=PARTS, default=DEFAULT, metavar="PART", help=only)
    budget = f"time for all chosen parts together (default: {BUDGET:.0f})"
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help=budget)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on any device, to try the benchmark itself")
    return parser.parse_args()


def run_part(name: str, out: Path, end: float, later: float, tiny: bool) -> None:
    """Measures one part and writes its file after every variant.

    Args:
        name: The part.
        out: Folder of the results.
        end: When the budget is used up, as `time.monotonic` counts.
        later: Seconds that are guaranteed to the parts after this one.
        tiny: Whether to use tiny sizes, on any device.
    """
    result: dict[str, Any] = {"part": name, "tiny": tiny, "machine": machine(), "measurements": {}, "not_measured": {}}
    result["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    later += sum(PARTS[name].variants.values())
    for variant, guaranteed in PARTS[name].variants.items():
        later -= guaranteed
        left = end - time.monotonic()
        limit = min(left, max(guaranteed, left - later))
        if limit < SHORTEST:
            result["not_measured"][variant] = {"reason": "skipped, because the budget is used up"}
        else:
            print(f"{name}: {variant} ...", file=sys.stderr, flush=True)
            start = time.monotonic()
            measurements, failure = run_variant(name, variant, out, limit, tiny)
            result["measurements"] |= measurements
            result.setdefault("seconds", {})[variant] = round(time.monotonic() - start, 1)
            if failure is not None:
                result["not_measured"][variant] = failure
                print(f"{name}: {variant}: {failure['reason']}", file=sys.stderr, flush=True)
        (out / f"{name}.json").write_text(f"{json.dumps(result, indent=1)}\n", encoding="utf-8")


def run_variant(
    name: str, variant: str, out: Path, limit: float, tiny: bool
) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Runs one variant in a process of its own.

    Returns: What it measured, by name, and None if it succeeded. Otherwise the `reason`, and the end of its `errors`.
    """
    with tempfile.TemporaryDirectory(prefix="accelerator-") as folder:
        file, log = Path(folder) / "measured.json", Path(folder) / "errors"
        command = [sys.executable, "-m", "accelerators.child", name, variant, str(file), str(out.resolve())]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [*command, *["--tiny"] * tiny],
                cwd=BENCHMARKS,
                env=os.environ | environment(),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with contextlib.suppress(ProcessLookupError):  # also ends the processes that the variant started
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        measured = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        text = log.read_text(encoding="utf-8", errors="replace")
    if status == 0:
        return measured, None
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
    reason = last if status is not None else f"stopped after {limit:.0f} s"
    return measured, {"reason": reason[:500], "errors": text[-ERRORS:]}


def environment() -> dict[str, str]:
    """Environment variables of every process: where the package is, and which GPU to use."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    paths = [str(BENCHMARKS.parent), str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": first, "PYTHONUNBUFFERED": "1"}


def machine() -> dict[str, Any]:
    """The card and its driver if `nvidia-smi` exists, the number of cores and the versions of the packages."""
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}
    found |= versions(PACKAGES)
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(query, capture_output=True, text=True, timeout=20)
            found["card"] = (done.stdout.strip().splitlines() or ["unknown"])[0]
    return found


def table(out: Path) -> str:
    """All parts in a folder, one line for each measurement."""
    lines = []
    for name in PARTS:
        if not (file := out / f"{name}.json").exists():
            continue
        result = json.loads(file.read_text(encoding="utf-8"))
        lines += ["", f"{name} ({result['machine'].get('card', 'no card')}, {result['date']})"]
        for measurement, values in result["measurements"].items():
            shown = ", ".join(f"{key} {_shown(value)}" for key, value in values.items() if value is not None)
            lines.append(f"  {measurement:34} {shown}")
        lines += [f"  {variant:34} not measured: {why['reason']}" for variant, why in result["not_measured"].items()]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())

"""From the command to the first step's loss, for the paper's base model: with an empty compilation cache, then with a
filled one.

    python benchmarks/start.py --source train.en --target train.de

The command is `transformer train`: it reads the files, trains the tokenizer, makes the batches, compiles and takes one
step; the time is that until the step's loss stands in the run's log.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 600.0  # seconds
COMMAND = "import sys; from transformer.cli import main; sys.exit(main())"


def seconds_to_first_step(files: list[str], directory: Path) -> float:
    """Raises: RuntimeError if the command ends without a step."""
    run_dir = directory / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    options = {
        "--data.train": files,
        "--run-dir": [str(run_dir)],
        "--model.vocabulary-size": ["8000"],
        "--training.batch-tokens": ["4096"],
        "--training.steps": ["1"],
        "--training.log-every": ["1"],
    }
    arguments = [word for name, values in options.items() for word in (name, *values)]
    environment = os.environ | {"XDG_CACHE_HOME": str(directory / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log, seconds = run_dir / "metrics.jsonl", None
    while seconds is None and process.poll() is None and time.perf_counter() - start < LIMIT:
        if log.exists() and log.stat().st_size:
            seconds = time.perf_counter() - start
        time.sleep(0.02)
    _, errors = process.communicate(timeout=LIMIT)
    if seconds is None:
        raise RuntimeError(f"no step within {LIMIT:.0f} s, exit status {process.returncode}: {errors.strip()[-300:]}")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--source", required=True, help="source sentences, one a line (.gz, .xz and .zst too)")
    parser.add_argument("--target", required=True, help="their translations")
    options = parser.parse_args()
    files = [str(Path(name).resolve()) for name in (options.source, options.target)]
    with tempfile.TemporaryDirectory(prefix="start-") as directory:
        for cache in ("empty", "filled", "filled"):
            try:
                seconds = seconds_to_first_step(files, Path(directory))
            except RuntimeError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            print(f"compilation cache {cache}: {seconds:.1f} s to the first step", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

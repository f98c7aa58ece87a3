"""Memory of `transformer translate` on a long stream: it must not grow with the number of lines.

    python train.py --training.steps 1 --model.d-model 16 --model.num-heads 2 --model.d-ff 16 --run-dir runs/tiny
    python benchmarks/stream_memory.py --run runs/tiny

The sources of the run's test set go round and round through a pipe, and the resident memory of the process is read as
the translations come out. What a model has learned makes no difference to that: the smallest is the fastest.
"""

import argparse
import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from transformer.checkpoint import read_config
from transformer.data.corpus import read_pairs
from transformer.errors import InputError

PROGRAM = "import sys; from transformer.cli import main; sys.exit(main())"


def run(options: argparse.Namespace) -> None:
    pairs, _ = read_pairs(read_config(options.run).data, "test")
    command = [sys.executable, "-c", PROGRAM, "translate", options.run, "--beam-size", "1", "--extra-length", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        lines = itertools.islice(itertools.cycle(pairs.sources), options.lines)
        threading.Thread(target=feed, args=(program.stdin, lines), daemon=True).start()
        print("| lines out | resident memory | lines a second |\n| ---: | ---: | ---: |")
        due, count, since = 1000, 0, (0, time.monotonic())
        for count, _ in enumerate(program.stdout, start=1):
            if count == due or count == options.lines:
                due = max(count, due * 10 if due < 100_000 else due + 100_000)
                speed = (count - since[0]) / (time.monotonic() - since[1])
                print(f"| {count:,} | {resident(program.pid) / 2**20:,.1f} MiB | {speed:,.0f} |", flush=True)
                since = (count, time.monotonic())
    if program.returncode or count != options.lines:
        raise InputError(f"transformer translate gave {count:,} lines and exit status {program.returncode}; see above.")


def feed(stream: IO[bytes], lines: Iterator[str]) -> None:
    """Writes the lines, and closes the stream."""
    with contextlib.suppress(BrokenPipeError):  # the program has ended, and said why
        for line in lines:
            stream.write(f"{line}\n".encode())
        stream.close()


def resident(process: int) -> int:
    """Bytes of memory that the process holds now. Source: proc(5)."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--run", required=True, help="run directory; its test set is translated again and again")
    parser.add_argument("--lines", type=int, default=1_000_000)
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        print("error: resident memory is read from /proc, which only Linux has: run this there.", file=sys.stderr)
        return 2
    try:
        run(options)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Gives malformed input to every entry point, in one process.

    python tests/hostile/fuzz.py --cases 20000 --seed 1 --out /tmp/fuzz

A case passes if it ends in a result or an `InputError` within ten seconds and a gigabyte, and asks no network. Others
are kept in `--out`, one folder for each place in the code: the smallest input, and the traceback. The same command
resumes after the last case, even if that has ended the process; it is then reported as well.
"""

import argparse
import errno
import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

sys.path += [str(Path(__file__).parents[1] / "cli")]
os.environ |= {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}

from cases import CASES
from commands import command
from limits import BYTES, Reached, limited, memory, without_compiling, without_network
from samples import Samples, make_samples

from transformer.errors import InputError

KINDS = CASES | {"command": command}


def run_case(kind: str, random: Random, folder: Path, samples: Samples) -> str:
    """Makes and runs one case in an empty folder, and says whether it ended in a result or was refused."""
    case = KINDS[kind](random, folder, samples)
    with limited(), without_network(), without_compiling():
        try:
            case()
        except Reached:
            return "result"
        except InputError as error:
            check_message(str(error))
            return "refused"
        except OSError as error:  # the command line prints which file, and why
            if error.errno == errno.ENAMETOOLONG:
                return "refused"
            raise
    return "result"


def check_message(message: str) -> None:
    """Raises AssertionError unless a message is short and has no traceback."""
    assert message.strip(), "the message is empty"
    assert "Traceback" not in message, "the message has a traceback"
    assert len(message) < 3000, f"the message has {len(message):,} characters"


class Campaign:
    """Many cases of one kind, with a record of them on disk."""

    def __init__(self, kind: str, seed: int, out: Path) -> None:
        self.kind, self.seed, self.out = kind, seed, out
        self.file = out / f"{kind}-{seed}.json"
        self.done: dict[str, Any] = {"next": 0, "result": 0, "refused": 0, "failed": 0, "seconds": 0.0}
        if self.file.exists():
            self.done = json.loads(self.file.read_text())
        self.marker = out / f"{kind}-{seed}.running"

    def run(self, cases: int, samples: Samples) -> None:
        if self.marker.exists():  # the last case ended the process
            number = int(self.marker.read_text())
            self.keep(number, "ended the process", "no traceback: see the output of that process", None)
            self.done["next"] = number + 1
        for number in range(self.done["next"], cases):
            self.marker.write_text(str(number))
            start = time.monotonic()
            self.done[self.case(number, samples)] += 1
            self.done |= {"next": number + 1, "seconds": self.done["seconds"] + time.monotonic() - start}
            if number % 500 == 499:
                self.write()
        self.write()
        self.marker.unlink(missing_ok=True)

    def write(self) -> None:
        self.file.write_text(json.dumps(self.done))

    def case(self, number: int, samples: Samples) -> str:
        """Runs a case, and keeps it if it fails."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                return run_case(self.kind, Random(f"{self.seed} {number}"), Path(folder), samples)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self.keep(number, place(error), traceback.format_exc(), Path(folder))
                return "failed"

    def keep(self, number: int, where: str, text: str, folder: Path | None) -> None:
        """Keeps the smallest case for each place where one failed."""
        group = self.out / "failures" / f"{self.kind}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"
        files = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()} if folder else {}
        size, before = sum(files.values()), group / "about.json"
        known = json.loads(before.read_text()) if before.exists() else {"size": size + 1, "times": 0}
        about = {"where": where, "times": known["times"] + 1, "size": min(size, known["size"])}
        if size < known["size"]:
            shutil.rmtree(group, ignore_errors=True)
            (group / "input").mkdir(parents=True)
            (group / "traceback.txt").write_text(text, errors="backslashreplace")
            again = f"--kind {self.kind} --seed {self.seed} --only {number}"
            about["again"] = again
            for path in files:
                if path.stat().st_size < 1e6:
                    target = group / "input" / path.relative_to(folder or path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
        else:
            about["again"] = known["again"]
        before.write_text(json.dumps(about, indent=2))


def place(error: BaseException) -> str:
    """The class of an error, and the last line of the package that it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/transformer/" in frame.filename and "site-packages" not in frame.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.name}:{last.line}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=[*KINDS], help="one kind; by default all")
    parser.add_argument("--only", type=int, help="run only the case of this number, and show its traceback")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "fuzz")
    options = parser.parse_args()
    warnings.simplefilter("error")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        samples = make_samples(Path(folder))
        limit = memory("VmSize") + 4 * BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if options.only is not None:
            with tempfile.TemporaryDirectory() as inside:
                print(run_case(options.kind, Random(f"{options.seed} {options.only}"), Path(inside), samples))
            return
        for kind in [options.kind] if options.kind else KINDS:
            campaign = Campaign(kind, options.seed, options.out)
            campaign.run(options.cases, samples)
            print(kind, json.dumps(campaign.done), flush=True)
    for about in sorted((options.out / "failures").glob("*/about.json")):
        print(json.dumps(json.loads(about.read_text())))


if __name__ == "__main__":
    main()

"""Kills training at random moments, and compares the end of each run with a run that nothing disturbed.

    python tests/cli/kills.py FOLDER --kills 200

Each run is killed once in every stage, by SIGKILL or SIGTERM, and started again with the same command. FOLDER keeps the
undisturbed run, a line for each kill (`kills.jsonl`), and the runs that ended differently. The same command continues
if this script is itself stopped. `test_signals.py` kills one run three times.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from command_line import ROOT, write_corpus

from transformer.checkpoint_records import records
from transformer.cli.resuming import outcome
from transformer.parameters import fingerprint
from transformer.run_dir import TOKENS

# `transformer train`, which announces every stage and compilation at once instead of after some seconds.
PROGRAM = """
import sys
from transformer import compilation, stages
from transformer.cli import main
stages.LONG = compilation.LONG = 0.0
sys.exit(main(["train", *sys.argv[1:]]))
"""
COMMAND = (sys.executable, "-u", "-c", PROGRAM)
COPIES = 20  # of the training pairs: tokenizing them takes a moment
STEP = "Compiling a training or validation step"


class Stage(NamedTuple):
    """When a process is in a stage.

    begins: Pattern of the line that it prints at the start of the stage; empty for the start of the process.
    seconds: About how long the stage takes, for a process that finds compiled programs in the cache.
    """

    begins: str
    seconds: float


STAGES = {
    "start": Stage("", 2.0),
    "tokenizing": Stage("(training the tokenizer|tokenizing the training pairs)", 0.2),
    "compiling": Stage(STEP, 5.0),
    "training": Stage(r"step \d+/", 0.3),
    "validating": Stage("validating", 0.02),
    "saving": Stage(r"step \d+: validation loss", 0.3),
    "decoding": Stage("translating and scoring the test set", 1.5),
}


class Kill(NamedTuple):
    """A signal at a moment.

    stage: Name of the stage.
    signal: SIGKILL or SIGTERM.
    line: Number of the stage's line after which the signal is sent, from 1.
    delay: Seconds after that line.
    """

    stage: str
    signal: str
    line: int
    delay: float


class UnexpectedEndError(Exception):
    """A process ended in another way than it should, or a run with another result."""


def draw_kills(seed: int, run: int) -> list[Kill]:
    """Draws the kills of a run: one in each stage, in random order. Decoding is last, because training is over then."""
    generator = random.Random(f"{seed}/{run}")
    names = list(STAGES)[:-1]
    generator.shuffle(names)
    return [
        Kill(
            name,
            generator.choice(("SIGKILL", "SIGTERM")),
            generator.randint(1, 4) if name == "training" else 1,
            round(generator.uniform(0, STAGES[name].seconds), 4),
        )
        for name in (*names, "decoding")
    ]


def interrupt(command: Sequence[str], kill: Kill, environment: Mapping[str, str] | None = None) -> int | None:
    """Starts a command and kills it.

    Returns: Its exit status; None if it ended successfully before the kill.

    Raises: UnexpectedEndError if the exit status is not the signal's, or if it printed a traceback or a warning.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        pattern, number = re.compile(STAGES[kill.stage].begins), 0
        while pattern.pattern and number < kill.line and (line := process.stdout.readline()):
            number += pattern.match(line) is not None
        time.sleep(kill.delay)
        process.send_signal(signal.Signals[kill.signal])
        _, error = process.communicate(timeout=600)
    status, number = process.returncode, signal.Signals[kill.signal]
    ways = {-number} if number == signal.SIGKILL else {128 + number}
    if kill.stage in ("start", "decoding"):  # SIGTERM may come before it is deferred, or when it no longer is
        ways |= {-number}
    if "Traceback" in error or "Warning" in error or status not in {0, *ways}:
        raise UnexpectedEndError(f"{kill} ended with exit status {status} and this message:\n{error}")
    return status or None


def finish(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Runs a command to its end.

    Raises: UnexpectedEndError if it fails or prints anything on standard error.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600)
    if done.returncode or done.stderr:
        raise UnexpectedEndError(
            f"The run could not be finished: exit status {done.returncode}, and this message:\n{done.stderr}"
        )


def result(run_dir: Path) -> dict[str, str]:
    """The SHA-256 of all that a finished run computed, by what it is."""
    arrays, log = outcome(run_dir, records(run_dir)[-1].step)
    files = {name: (run_dir / name).read_bytes() for name in ("scores.json", "hypotheses.txt", "tokenizer.json")}
    files["metrics.jsonl without speeds"] = json.dumps(log).encode()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {"parameters and optimizer state": fingerprint(arrays)} | digests


def write_command(folder: Path) -> list[str]:
    """Writes a corpus and a config, and returns the command to train on them, without its run directory."""
    write_corpus(folder)
    for language in ("en", "de"):
        file = folder / f"train.{language}"
        file.write_text(file.read_text() * COPIES)
    return [
        *(*COMMAND, "--config", f"{folder}/tiny.py"),
        *("--data.train", f"{folder}/train.en", f"{folder}/train.de"),
        *("--data.validation", f"{folder}/val.en", f"{folder}/val.de"),
        *("--data.test", f"{folder}/test.en", f"{folder}/test.de"),
        *("--training.steps", "200", "--training.validate-every", "50", "--training.log-every", "10"),
        *("--training.accumulation-steps", "2", "--model.attention-dropout", "0.1"),
    ]


def kill_run(command: list[str], folder: Path, seed: int, run: int, environment: dict[str, str]) -> list[dict]:
    """Kills a run in every stage, finishes it, and compares it with the undisturbed one.

    Returns: A line of the log for each kill.

    Raises: UnexpectedEndError if anything differs. The run is kept.
    """
    run_dir, cache, done = folder / str(run), Path(environment["JAX_COMPILATION_CACHE_DIR"]), []
    shutil.rmtree(run_dir, ignore_errors=True)  # this script was stopped
    own = [*command, "--run-dir", str(run_dir)]
    for kill in draw_kills(seed, run):
        if kill.stage == "compiling":
            shutil.rmtree(cache, ignore_errors=True)  # a run killed before it compiled made none
        if kill.stage == "tokenizing":
            shutil.rmtree(run_dir / TOKENS, ignore_errors=True)  # otherwise nothing would be tokenized again
        before = unfinished_saves(run_dir)
        status = interrupt(own, kill, environment)
        if status is None:
            continue
        left = len(unfinished_saves(run_dir) - before)
        done.append({"seed": seed, "run": run, **kill._asdict(), "status": status, "unfinished_saves": left})
    finish(own, environment)
    expected, found = result(folder / "undisturbed"), result(run_dir)
    if different := [name for name in expected if found[name] != expected[name]]:
        raise UnexpectedEndError(f"After {done}, the {', '.join(different)} differ.")
    shutil.rmtree(run_dir)
    return done


def unfinished_saves(run_dir: Path) -> set[str]:
    """The names of the temporary folders that a killed process has left, which the next one deletes."""
    return {path.name for path in run_dir.glob("checkpoints/*") if not path.name.isdecimal()}


def summary(kills: Sequence[Mapping[str, Any]], failures: Sequence[str]) -> str:
    """A table of the kills by stage."""
    numbers = Counter((kill["stage"], kill["signal"]) for kill in kills)
    rows = [f"{stage:12}{numbers[stage, 'SIGKILL']:8}{numbers[stage, 'SIGTERM']:8}" for stage in STAGES]
    saves = sum(kill["unfinished_saves"] > 0 for kill in kills)
    return "\n".join(
        (
            f"{'stage':12}{'SIGKILL':>8}{'SIGTERM':>8}",
            *rows,
            f"{len(kills)} kills in {len({kill['run'] for kill in kills})} runs, {saves} of them during a save. "
            f"{len(failures)} runs ended differently.",
            *failures,
        )
    )


def main() -> int:
    """Kills as often as asked, in as many runs as that takes, and prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cache, log = folder / "cache", folder / "kills.jsonl"
    cache.mkdir(exist_ok=True)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = write_command(folder)
    finish([*command, "--run-dir", f"{folder}/undisturbed"], environment)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    run = max((line["run"] for line in lines), default=0)
    while sum("stage" in line for line in lines) < options.kills:
        run += 1
        started = time.monotonic()
        try:
            new = kill_run(command, folder, options.seed, run, environment)
        except UnexpectedEndError as error:
            new = [{"run": run, "failure": f"Run {run}, kept in {folder}/{run}: {error}"}]
        lines += new
        with log.open("a") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in new)
        print(f"run {run}: {len(new)} kills in {time.monotonic() - started:.0f} s", flush=True)
    failures = [line["failure"] for line in lines if "failure" in line]
    print(summary([line for line in lines if "stage" in line], failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

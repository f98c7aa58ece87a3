"""Trains with several numbers of processes, and resumes with others.

    python tests/cli/process_counts.py FOLDER

Two processes, and then four, stop after half of the steps; their meshes have the axis `fsdp`. Then one, two and four
processes resume a copy of each run, with one device per process. The result is compared with that of one process that
never stopped.
"""

import argparse
import shutil
from pathlib import Path

from command_line import write_corpus
from jobs import ends, start_job

from transformer.cli.resuming import differences, outcome

STEPS, HALF = 20, 10


def main() -> None:
    """Prints a line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder for the corpus and the runs")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True)
    write_corpus(folder)
    command = [
        *("train", "--config", f"{folder}/tiny.py", "--data.train", f"{folder}/train.en", f"{folder}/train.de"),
        *("--data.validation", f"{folder}/val.en", f"{folder}/val.de"),
        *("--data.test", f"{folder}/test.en", f"{folder}/test.de"),
        *("--model.dtype", "float32", "--training.steps", str(STEPS)),
    ]
    train(command, folder / "whole", 1)
    expected, texts = outcome(folder / "whole", STEPS), (folder / "whole" / "hypotheses.txt").read_text("utf-8")
    for before in (2, 4):
        half = folder / f"half-{before}"
        train([*command, "--parallel.fsdp", str(before), "--stop-after", str(HALF)], half, before)
        for number in (1, 2, 4):
            run = shutil.copytree(half, folder / f"{before}-{number}")
            train(command, run, number)
            found = differences(expected, outcome(run, STEPS)) or "equal bit for bit"
            same = (run / "hypotheses.txt").read_text("utf-8") == texts
            print(f"{before}, resumed by {number}: {found}; translations {'equal' if same else 'DIFFER'}", flush=True)


def train(command: list[str], run: Path, number: int) -> None:
    for ended in ends(start_job([*command, "--run-dir", str(run)], number), timeout=600):
        if ended.status != 0:
            raise SystemExit(ended.err)


if __name__ == "__main__":
    main()

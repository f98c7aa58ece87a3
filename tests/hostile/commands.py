"""Command lines with malformed options and arguments, on sound and on malformed files."""

import re
from functools import cache
from pathlib import Path
from random import Random

from cases import Case, changed_run, corpus_file
from command_line import call
from mutations import NUMBERS, TEXTS
from samples import Samples

from transformer.cli import COMMANDS
from transformer.errors import InputError

VALUES = (
    *("1", "2", "0.5", "0", "4", "fused", "plain", "float32", "bfloat16", "nfc", "last", "best", "10", "20", "learned"),
    *("ctranslate2", "stablehlo", "marian", "hf-marian", "safetensors", "split", "sample", "True", "None", "a b", "*"),
    *("layer", "512:4000", "bleu", "zh", "char", "adamw", "cosine", "x.png", "x.html", "train", "quickstart", "base"),
)
COMMON = ("--help", "--", "-x", "--nothing", "--RUN", "RUN", "--run-dir=~", "--seed=1", "--a.b.c", "-", "--no-")


@cache
def options_of(command: str) -> list[str]:
    """The options that the help of a command names."""
    return sorted({*re.findall(r"--[a-z][\w.-]*\w", call(command, "--help").out)})


def command(random: Random, folder: Path, samples: Samples) -> Case:
    """A command with its arguments and standard input."""
    name = random.choice((*COMMANDS, *COMMANDS, "trian", "", "-h"))
    run = str(changed_run(random, folder, samples)) if random.random() < 0.4 else str(samples.run)
    texts = random.random() < 0.5
    files = [corpus_file(random, folder / f"file{n}", samples, texts) for n in range(2)]
    arguments = [name, *_positional(random, name, run, folder, samples)]
    if name == "train":
        run_dir = random.choice((run, str(folder / "new"), str(folder / "new")))
        arguments += ["--config", random.choice(("quickstart", "base")), f"--run-dir={run_dir}", "--data.corpus=files"]
        arguments += ["--data.train", *random.choice((files, files[:1])), "--model.vocabulary-size=260"]
    elif random.random() < 0.3:
        arguments += [random.choice(("--source", "--reference", "--target")), files[0]]
    for _ in range(random.randrange(4)):
        option = random.choice(options_of(name) or ["--x"]) if name in COMMANDS else "--x"
        arguments += [random.choice((option, option, option, random.choice(COMMON))), *_values(random, run, files)]
    stdin = "".join(random.choice((*TEXTS, "the dog")) + "\n" for _ in range(3)).encode("utf-8", "replace").decode()
    given = [argument.replace("\0", "") for argument in arguments]  # no shell can pass one

    def run_command() -> object:
        result = call(*given, stdin=stdin)
        if result.status == 2:
            raise InputError(result.err.rpartition("\nerror: ")[2].removeprefix("error: ")[:2900])
        assert result.status in (0, None), f"exit status {result.status}"
        return result

    return run_command


def _positional(random: Random, name: str, run: str, folder: Path, samples: Samples) -> list[str]:
    """The arguments of a command before its options; sometimes too few or too many."""
    runs = (run, run, run, run, f"{run}@10", f"{run}@x", str(folder), str(folder / "nothing"), "", "9" * 300)
    needed = {"compare": 2, "import": 2, "export": 1, "figures": random.randrange(3), "train": 0, "complexity": 0}
    number = needed.get(name, 1) if random.random() < 0.95 else random.randrange(4)
    found = [random.choice(runs) for _ in range(number)]
    if name == "import" and number == 2:
        found = [random.choice((str(random.choice(samples.models)), found[0])), str(folder / "imported")]
    if name == "export":
        found.append(str(random.choice((folder / "out", folder / "out", folder, "/nothing/x", "/dev/null/x"))))
    if name == "figures":
        found.append(f"--output={folder / 'figures'}")
    return found


def _values(random: Random, run: str, files: list[str]) -> list[str]:
    """None to two values of an option."""
    number = random.choice((0, 1, 1, 1, 1, 2))
    texts = [text for text in TEXTS if len(text) < 10_000]
    every = (*VALUES, *VALUES, *texts, *map(str, NUMBERS), run, *files)
    return [random.choice(every) for _ in range(number)]

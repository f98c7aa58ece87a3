"""Compare the translation speed of this project, Marian and CTranslate2.

    pip install -e . && pip install -r benchmarks/requirements.txt    # see there for PyTorch
    python train.py --config benchmarks/decoding_config.py --data.train train.en train.de
    python benchmarks/decoding.py --run runs/decoding --source test.en --target test.de

All programs use the weights of one run. Its model needs the settings of MarianMTModel, as in `decoding_config.py`.
Every program gets the same sentences as token ids, all at once, and returns token ids. Reading, tokenizing and
detokenizing are not measured. Each program runs in its own process and sleeps while another one is measured. They take
turns (A B C A B C ...). In each turn, a program translates all sentences greedily and with a beam of 4.

The tables show:

- sentences per second, as median and quartiles over the turns
- processor seconds per 1,000 sentences
- BLEU
- the share of translations that equal ours in float32, token for token

With a length penalty, the three programs count lengths and stop by different rules. Without one (the default), they
search for the same translation. `--output FILE.json` saves all measurements and the differing translations. `--csv
FILE` appends medians and quartiles in the columns of `results.csv`.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # must be set before jax is imported, here and in the programs

import numpy as np
from flax.traverse_util import flatten_dict
from peers.children import Child, command, in_turns, probe
from peers.decoders.job import BEAMS, MARIAN, Job
from peers.decoders.report import REFERENCE, TITLES, differences, rows, table
from results import append

from transformer.config import DataConfig
from transformer.data.corpus import read_pairs
from transformer.errors import InputError
from transformer.files import check_writable, write_whole
from transformer.inference.evaluate import bleu
from transformer.inference.translator import Translator, load


def main() -> int:
    try:
        run(parse_options())
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--run", required=True, help="run directory of a model with Marian's settings")
    parser.add_argument("--source", required=True, help="source sentences, one per line (also .gz, .xz or .zst)")
    parser.add_argument("--target", required=True, help="reference translations, one per line")
    parser.add_argument("--programs", nargs="+", choices=TITLES, default=list(TITLES), help="default: all")
    parser.add_argument("--sentences", type=int, default=1000, help="number of sentences, from the start of the file")
    parser.add_argument("--turns", type=int, default=5, help="turns of each program")
    parser.add_argument("--length-penalty", type=float, default=0.0, help="divide scores by length ** this")
    parser.add_argument("--output", type=Path, help="write all measurements to this JSON file")
    parser.add_argument("--csv", type=Path, help="append medians and quartiles to this file")
    options = parser.parse_args()
    for name in ("turns", "sentences"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def run(options: argparse.Namespace) -> None:
    for file in (options.output, options.csv):
        if file is not None:
            check_writable(file)
    machine = probe("cpu")
    translator = load(options.run, dtype="float32")
    pairs, _ = read_pairs(DataConfig(test=(options.source, options.target)), "test")
    sources, references = pairs.sources[: options.sentences], pairs.targets[: options.sentences]
    with tempfile.TemporaryDirectory(prefix="decoding-") as folder:
        job = make_job(translator, sources, options, Path(folder))
        programs = measure(job, options, Path(folder))
    translations = {
        name: {beam: program["turns"][0][str(beam)].pop("translations") for beam in BEAMS}
        for name, program in programs.items()
        if "failed" not in program
    }
    for name, of_beam in translations.items():
        for beam in BEAMS:
            texts = translator.tokenizer.target.decode_batch(of_beam[beam])
            programs[name].setdefault("bleu", {})[str(beam)] = bleu(texts, references)
            if REFERENCE in translations:
                same = [a == b for a, b in zip(of_beam[beam], translations[REFERENCE][beam], strict=True)]
                programs[name].setdefault("same", {})[str(beam)] = sum(same) / len(same)
    result: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "machine": machine | {"system": platform.platform(), "python": platform.python_version()},
        "model": dataclasses.asdict(translator.model.config),
        "sentences": len(sources),
        "length_penalty": options.length_penalty,
        "programs": programs,
        "differences": differences(translator, sources, translations, options.length_penalty),
    }
    if options.output is not None:
        write_whole(options.output, f"{json.dumps(result, indent=1, ensure_ascii=False)}\n".encode())
    if options.csv is not None:
        append(rows(result), options.csv)
    print(table(result))


def make_job(translator: Translator, sources: list[str], options: argparse.Namespace, work: Path) -> Job:
    """Writes weights and sentences to files, and describes the programs' job.

    Raises: InputError if the model does not have Marian's settings.
    """
    model, tokenizer = translator.model.config, translator.tokenizer
    for name, value in MARIAN.items():
        if getattr(model, name) != value:
            raise InputError(
                f"MarianMTModel has model.{name}={value}, but {options.run} has {getattr(model, name)}. Train a run "
                "with --config benchmarks/decoding_config.py."
            )
    weights = flatten_dict(translator.params["params"], sep="/")
    arrays: Any = {name: np.asarray(leaf, np.float32) for name, leaf in weights.items()}
    np.savez(work / "weights.npz", **arrays)
    if any(name.startswith("ctranslate2") for name in options.programs):
        from transformer.interop.ctranslate2 import make_spec

        (work / "ctranslate2").mkdir()
        make_spec(model, translator.params["params"], tokenizer).save(str(work / "ctranslate2"))
    ids = [[*sentence, tokenizer.end_id] for sentence in tokenizer.source.encode_batch(sources)]
    (work / "sentences.json").write_text(json.dumps(ids), encoding="utf-8")
    return Job(
        run=str(Path(options.run).resolve()),
        weights=str(work / "weights.npz"),
        ctranslate2=str(work / "ctranslate2"),
        sentences=str(work / "sentences.json"),
        model=model,
        pad_id=tokenizer.pad_id,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        length_penalty=options.length_penalty,
        extra_length=translator.config.search.extra_length,
    )


def measure(job: Job, options: argparse.Namespace, work: Path) -> dict[str, dict[str, Any]]:
    """Measures all programs in turns, and keeps the translations of the first."""
    job_file = work / "job.json"
    job_file.write_text(job.to_json(), encoding="utf-8")
    environment = {"XDG_CACHE_HOME": str(work)}

    def ask(child: Child, turn: int) -> dict[str, Any]:
        answers = {str(beam): child.ask(beam_size=beam) for beam in BEAMS}
        for answer in answers.values() if turn else ():
            del answer["translations"]
        return answers

    return in_turns(
        options.programs,
        lambda name: Child(name, job_file, environment, "cpu", worker="peers.decoders.worker"),
        options.turns,
        ask,
    )


if __name__ == "__main__":
    sys.exit(main())

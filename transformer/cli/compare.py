"""The `transformer compare` command, which tests whether a run translates better."""

import dataclasses
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from transformer.cli.decoding import Checkpoint, RunOptions, load_members
from transformer.cli.options import parse
from transformer.config import ScoresConfig
from transformer.errors import InputError
from transformer.files import read_regular

if TYPE_CHECKING:
    from transformer.inference.results import Result


@dataclass(frozen=True)
class ComparisonOptions:
    """Test whether one run translates a test set better than another.

    Prints the scores of both with a paired bootstrap test (Koehn 2004), the other differences between the runs, and the
    translations that changed the most.

        transformer compare runs/baseline runs/larger
        transformer compare runs/larger@5000 runs/larger@last

    Each side is one of three things. A run directory: the translations that the run kept of its test set. A folder
    written by `transformer evaluate --output`. RUN@STEP, RUN@best or RUN@last: a checkpoint, which translates the test
    set now, unless `evaluate --watch` has kept its translations.

    Scores are computed with the settings of the first run, unless other options are given."""

    first: Annotated[Positional[str], arg(metavar="FIRST")]
    """The baseline: a run directory, a folder of `evaluate --output`, or RUN@STEP."""
    second: Annotated[Positional[str], arg(metavar="SECOND")]
    """The run to compare with it, in the same forms."""
    reference: tuple[str, ...] = ()
    """Files of reference translations (text, TSV, JSONL or parquet) that replace the references of the test set.
    Several files give each sentence several references."""
    sentences: int = 5
    """Number of changed translations to show, the largest change in sentence-level chrF first."""
    json: bool = False
    """Print JSON instead of text."""
    scores: OmitArgPrefixes[ScoresConfig] = field(default_factory=ScoresConfig)


def main(arguments: list[str]) -> None:
    """Compares two runs on their test set."""
    first = _read(parse(ComparisonOptions, arguments, "compare").first)
    config = first.run_config
    options = parse(partial(ComparisonOptions, scores=config.scores), arguments, "compare")
    second = _read(options.second)
    if options.reference:
        first, second = (_with_references(result, options.reference) for result in (first, second))
    from transformer.analysis.comparison import compare, to_json, to_text
    from transformer.inference.metrics import Metrics

    comparison = compare(first, second, metrics=Metrics(options.scores, config.data.target_language))
    if options.json:
        print(to_json(comparison, first, second, options.sentences), end="")
    else:
        print(to_text(comparison, first, second, options.sentences))


def _read(name: str) -> "Result":
    """The translations of a run, of an evaluation folder, or of a checkpoint."""
    from transformer.inference.loading import named_checkpoint
    from transformer.inference.results import EVALUATION, read_result

    if (Path(name) / EVALUATION).exists():
        return read_result(name)
    run, checkpoint = named_checkpoint(name, "last")
    return _kept(run) if run == name else _of_checkpoint(name, run, checkpoint)


def _kept(run_dir: str) -> "Result":
    """What a run kept of its test set."""
    from transformer.data.tokenizer_files import load_tokenizer
    from transformer.inference.results import Result, read_scores, settings
    from transformer.kept_pairs import read_test_set
    from transformer.run_dir import HYPOTHESES, SCORES, checkpoint_steps, read_config, training_data

    config, run = read_config(run_dir), Path(run_dir)
    instead = f"Give {run_dir}@last to compare its last checkpoint."
    for name in (HYPOTHESES, SCORES):
        if not (run / name).exists():
            raise InputError(
                f"Cannot compare {run_dir}: it has no {name}, because training has not finished or had no --data.test. "
                f"{instead}"
            )
    try:
        hypotheses = read_regular(run / HYPOTHESES).decode().split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{run / HYPOTHESES} is damaged ({error}). {instead}") from error
    tokenizer = load_tokenizer(run / "tokenizer.json", config)
    return Result(
        name=run_dir,
        pairs=read_test_set(run_dir, config.data),
        hypotheses=hypotheses,
        config=settings(config, checkpoint_steps(run)),
        tokenizer=tokenizer.fingerprint,
        training_data=training_data(run),
        signatures={name: score.signature for name, score in read_scores(run / SCORES).by_metric.items()},
    )


def _of_checkpoint(name: str, run: str, checkpoint: Checkpoint) -> "Result":
    """A checkpoint's translations of the test set.

    Translations that `evaluate --watch` kept are read; otherwise the test set is translated now.
    """
    from transformer.inference.results import EVALUATION, evaluate, read_result
    from transformer.inference.watch import FOLDER
    from transformer.kept_pairs import read_test_set
    from transformer.run_dir import checkpoint_steps, read_config

    steps, config = checkpoint_steps(run, checkpoint), read_config(run)
    pairs, kept = read_test_set(run, config.data), Path(run) / FOLDER / str(steps[-1])
    if (kept / EVALUATION).exists():
        result = read_result(kept)
        if (result.config["checkpoints"], result.pairs.fingerprint) == (steps, pairs.fingerprint):
            return dataclasses.replace(result, name=name)
    print(f"Translating the test set with {name}.", file=sys.stderr)
    translator, members = load_members(RunOptions(run, checkpoint))
    _, result = evaluate(translator, pairs, config.search, members)
    return dataclasses.replace(result, name=name)


def _with_references(result: "Result", files: tuple[str, ...]) -> "Result":
    from transformer.data.corpus import read_targets

    pairs, references = result.pairs, [read_targets(file, result.run_config.data) for file in files]
    for file, own in zip(files, references, strict=True):
        if len(own) != len(pairs.sources):
            raise InputError(
                f"{file} has {len(own)} references, but {result.name} has {len(pairs.sources)} sentences. Give one "
                "reference per sentence."
            )
    return dataclasses.replace(
        result, pairs=pairs._replace(targets=references[0], further_references=tuple(references[1:]))
    )

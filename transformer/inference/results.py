"""Evaluations kept as folders: scores, translations, their test set, and all that decides them.

FOLDER/scores.json      the scores
FOLDER/hypotheses.txt   the translations, one a line
FOLDER/test.jsonl       the sources and references, each as a string; as a list where a sentence has several
FOLDER/evaluation.json  config, search, checkpoints, compute type; fingerprints of tokenizer and training pairs
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer.config import Config, SearchConfig
from transformer.config_files import from_json, to_json
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.files import PART, write_lines, write_whole
from transformer.inference.evaluate import BleuScore, ExactMatch, LengthBucket, Score, Scores
from transformer.inference.metrics import Metrics, metrics_of
from transformer.inference.translator import Translator
from transformer.run_dir import training_data

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Result:
    """What a run leaves of its test set, and what it came from.

    Attributes:
        name: of the run.
        pairs: its test set.
        hypotheses: its translations.
        config: the `settings`.
        tokenizer: the tokenizer's fingerprint.
        training_data: that of the training pairs; None where it is not known.
        signatures: of its scores, by metric.
    """

    name: str
    pairs: Pairs
    hypotheses: Sequence[str]
    config: Mapping[str, Any]
    tokenizer: str
    training_data: str | None
    signatures: Mapping[str, str]

    @property
    def run_config(self) -> Config:
        """The run's config, with the search, scores and compute type of this evaluation.

        Raises: InputError if another version of this library wrote it.
        """
        fields = {name: value for name, value in self.config.items() if name not in ("checkpoints", "ensemble")}
        return from_json(json.dumps(fields))

    @property
    def metrics(self) -> Metrics:
        """How the translations were scored."""
        return metrics_of(self.run_config)


def evaluate(
    translator: Translator,
    pairs: Pairs,
    search: SearchConfig,
    members: Sequence[tuple[str, Sequence[int]]],
    metrics: Metrics | None = None,
) -> tuple[Scores, Result]:
    """Translates and scores a test set.

    Args:
        translator: a model or an ensemble.
        pairs: what is translated, and its references.
        search: how it is translated.
        members: of each model, the run directory and the steps of the checkpoints whose mean was taken.
        metrics: how it is scored; as the run's config says unless given.
    """
    metrics = metrics_of(translator.config) if metrics is None else metrics
    scores, hypotheses = translator.evaluate(pairs, search, metrics)
    (run, steps), *ensemble = members
    model = dataclasses.replace(translator.config.model, dtype=str(translator.model.dtype))
    config = dataclasses.replace(translator.config, search=search, model=model, scores=metrics.config)
    return scores, Result(
        name=run,
        pairs=pairs,
        hypotheses=hypotheses,
        config=settings(config, steps, ensemble),
        tokenizer=translator.tokenizer.fingerprint,
        training_data=training_data(run),
        signatures={name: score.signature for name, score in scores.by_metric.items()},
    )


def describe(result: Result) -> dict[str, Any]:
    """What scores are of, for `evaluate --json`: checkpoints, search, compute type and test set."""
    config, pairs = result.config, result.pairs
    return {
        "run": result.name,
        "checkpoints": config["checkpoints"],
        "average": len(config["checkpoints"]),
        "ensemble": config["ensemble"],
        "search": config["search"],
        "dtype": config["model"]["dtype"],
        "test_set": {
            "sentences": len(pairs.sources),
            "with_an_empty_side": pairs.num_empty,
            "references": 1 + len(pairs.further_references),
            "fingerprint": pairs.fingerprint,
        },
    }


def settings(
    config: Config, steps: Sequence[int], ensemble: Sequence[tuple[str, Sequence[int]]] = ()
) -> dict[str, Any]:
    """All that decides a run's translations, as JSON has it: its config, the steps of the checkpoints whose mean was
    taken, and the further runs of an ensemble with theirs."""
    decided = json.loads(to_json(config)) | {"checkpoints": [*steps]}
    del decided["average"]  # what it asks for; the checkpoints are what it got
    return decided | {"ensemble": [[run, [*own]] for run, own in ensemble]}


def write_result(folder: Path, result: Result, scores: Scores) -> None:
    """Writes the folder: all of it, or nothing of this name.

    Raises: OSError if the folder is there already.
    """
    whole, folder = folder, folder.with_name(f"{folder.name}{PART}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pairs = zip(result.pairs.sources, result.pairs.targets, *result.pairs.further_references, strict=True)
    rows = ({"source": source, "reference": own if len(own) > 1 else own[0]} for source, *own in pairs)
    write_lines(folder / "test.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows))
    write_lines(folder / "hypotheses.txt", result.hypotheses)
    write_whole(folder / "scores.json", scores.to_json().encode())
    about = {name: getattr(result, name) for name in ("config", "tokenizer", "training_data", "signatures")}
    write_whole(folder / EVALUATION, f"{json.dumps({'run': result.name} | about, indent=2)}\n".encode())
    folder.rename(whole)


def read_result(folder: str | Path) -> Result:
    """Reads what `write_result` has written.

    Raises: InputError if a file is missing.
    """
    try:
        about = json.loads((Path(folder) / EVALUATION).read_text(encoding="utf-8"))
        kept, lines = (
            (Path(folder) / name).read_text(encoding="utf-8").split("\n")[:-1]
            for name in ("test.jsonl", "hypotheses.txt")
        )
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: evaluate again, with --output {folder}.") from error
    del about["run"]
    rows = [json.loads(row) for row in kept]
    references = [own if isinstance(own := row["reference"], list) else [own] for row in rows]
    targets, *further = map(list, zip(*references, strict=True))
    pairs = Pairs([row["source"] for row in rows], targets, further_references=tuple(further))
    return Result(str(folder), pairs, lines, **about)


def read_scores(file: Path) -> Scores:
    """Reads the scores in a `scores.json`.

    Raises: InputError if the file is missing, or was written by an earlier version.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        by_metric: dict[str, Score] = {}
        for name, kind in (("bleu", BleuScore), ("chrf", Score), ("ter", Score)):
            if name in values:
                parts: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values[name].items()}
                by_metric[name] = kind(**parts)
        return Scores(
            by_metric=by_metric,
            bleu_by_length={length: LengthBucket(**own) for length, own in values["bleu_by_length"].items()},
            exact_match=ExactMatch(**values["exact_match"]),
            exact_match_by_tag={tag: ExactMatch(**own) for tag, own in values["exact_match_by_tag"].items()},
            loss=values["loss"],
            warnings=tuple(values["warnings"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Cannot read the scores in {file} ({error!r}). Evaluate again.") from error

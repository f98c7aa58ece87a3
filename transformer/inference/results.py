"""Evaluations on disk, with everything that determines their scores.

FOLDER/scores.json      the scores
FOLDER/hypotheses.txt   the translations, one per line
FOLDER/test.jsonl       sources and references; a list of references if a sentence has several, else a string
FOLDER/evaluation.json  config, search, checkpoints, compute dtype, and fingerprints of tokenizer and training pairs
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_type_hints

from transformer.config import Config, SearchConfig
from transformer.config.bounds import check, fits
from transformer.config_files import from_json, to_json
from transformer.data.corpus import Pairs
from transformer.data.text import check_text
from transformer.errors import InputError, require
from transformer.files import PART, read_json, read_regular, write_lines, write_whole
from transformer.inference.evaluate import BleuScore, ExactMatch, LengthBucket, Score, Scores
from transformer.inference.metrics import Metrics, metrics_of
from transformer.inference.translator import Translator
from transformer.run_dir import training_data

EVALUATION = "evaluation.json"
_TEXTS = ("tokenizer", "training_data", "average")
_ABOUT = ("config", *_TEXTS, "signatures")


@dataclass(frozen=True)
class Result:
    """A translated test set, with what determines the translations and scores.

    Attributes:
        name: Name of the run or of the folder, for messages.
        pairs: The test set.
        hypotheses: The translation of each source.
        config: The settings, as the function `settings` returns them.
        tokenizer: Fingerprint of the tokenizer.
        training_data: Fingerprint of the training pairs, or None if it is not known.
        signatures: The signature of sacreBLEU for each metric.
        average: Number of checkpoints that `evaluate --watch` was to average; fewer may have existed. None for other
            evaluations.
    """

    name: str
    pairs: Pairs
    hypotheses: Sequence[str]
    config: Mapping[str, Any]
    tokenizer: str
    training_data: str | None
    signatures: Mapping[str, str]
    average: int | None = None

    @property
    def run_config(self) -> Config:
        """The config of the run, with the settings of this evaluation.

        Raises:
            InputError: The config was written by an incompatible version of this library.
        """
        fields = {name: value for name, value in self.config.items() if name not in ("checkpoints", "ensemble")}
        return from_json(json.dumps(fields))

    @property
    def metrics(self) -> Metrics:
        """The metrics that the translations were scored with."""
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
        translator: A model or an ensemble.
        pairs: The sentences to translate, and their references.
        search: Settings of the search.
        members: The run directory of each model, and the steps of the checkpoints that were averaged for it.
        metrics: The metrics to compute. None uses the metrics of the run's config.

    Returns:
        The scores, and the translations with what determines them.

    Raises:
        InputError: There are no pairs, a metric lacks its tokenizer, or a sentence is too long for the model and
            `search.long_input` is `refuse`.
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
    """Describes checkpoints, search and test set, for `evaluate --json`."""
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
    """Collects the settings that determine translations, as values for JSON.

    Args:
        config: The config of the run, with the search, metrics and compute dtype in use.
        steps: The steps of the checkpoints that were averaged.
        ensemble: The further runs of an ensemble, each with the steps of its checkpoints.

    Returns:
        The fields of the config except `average`, with `checkpoints` and `ensemble`.
    """
    decided = json.loads(to_json(config)) | {"checkpoints": [*steps]}
    del decided["average"]  # only a request; `checkpoints` says how many there were
    return decided | {"ensemble": [[run, [*own]] for run, own in ensemble]}


def write_result(folder: Path, result: Result, scores: Scores) -> None:
    """Writes an evaluation to a new folder, which appears when it is complete.

    Raises:
        OSError: The folder exists already, or cannot be written.
    """
    final, folder = folder, folder.with_name(f"{folder.name}{PART}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pairs = zip(result.pairs.sources, result.pairs.targets, *result.pairs.further_references, strict=True)
    rows = ({"source": source, "reference": own if len(own) > 1 else own[0]} for source, *own in pairs)
    write_lines(folder / "test.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows))
    write_lines(folder / "hypotheses.txt", result.hypotheses)
    write_whole(folder / "scores.json", scores.to_json().encode())
    about = {name: getattr(result, name) for name in _ABOUT}
    write_whole(folder / EVALUATION, f"{json.dumps({'run': result.name} | about, indent=2)}\n".encode())
    folder.rename(final)


def read_result(folder: str | Path) -> Result:
    """Reads an evaluation that `write_result` wrote.

    Raises:
        InputError: A file is missing or damaged.
    """
    again = f"Remove the folder and evaluate again with --output {folder}."
    try:
        about = read_json(Path(folder) / EVALUATION)
        kept, hypotheses = (
            read_regular(Path(folder) / name).decode().split("\n")[:-1] for name in ("test.jsonl", "hypotheses.txt")
        )
        about = {name: about.get(name) if name == "average" else about[name] for name in _ABOUT}
        result = Result(str(folder), _pairs(kept), hypotheses, **about)
        _check(result)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing. {again}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"The evaluation in {folder} is damaged ({error}). {again}") from error
    return result


def _pairs(rows: Sequence[str]) -> Pairs:
    """The pairs in the lines of `test.jsonl`."""
    values = [json.loads(row) for row in rows]
    references = [own if isinstance(own := row["reference"], list) else [own] for row in values]
    targets, *further = map(list, zip(*references, strict=True))
    return Pairs([row["source"] for row in values], targets, further_references=tuple(further))


def _check(result: Result) -> None:
    """Raises an error that `read_result` explains, unless the parts of a result have their types and fit each other."""
    for text in (*result.pairs.sources, *result.pairs.targets, *chain(*result.pairs.further_references)):
        check_text(text, "a sentence")
    hints = get_type_hints(Result)
    for name in _TEXTS:
        if not fits(getattr(result, name), hints[name]):
            raise TypeError(f"its {name} has another type")
    if not all(isinstance(text, str) for item in dict(result.signatures).items() for text in item):
        raise TypeError("its signatures are not text")
    for part in ("model", "optimizer", "search"):
        dict(result.config[part])
    match result.config:
        case {"checkpoints": [*steps], "model": {"dtype": str()}, "seed": int()}:
            if all(isinstance(step, int) for step in steps):
                return
    raise TypeError("its config lacks the checkpoints, the seed or the compute dtype")


def read_scores(file: Path) -> Scores:
    """Reads the scores in a `scores.json`.

    Raises: InputError if the file is missing, or was written by an earlier version.
    """
    try:
        values = read_json(file)
        by_metric: dict[str, Score] = {}
        for name, kind in (("bleu", BleuScore), ("chrf", Score), ("ter", Score)):
            if name in values:
                parts: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values[name].items()}
                by_metric[name] = kind(**parts)
        scores = Scores(
            by_metric=by_metric,
            bleu_by_length={length: LengthBucket(**own) for length, own in values["bleu_by_length"].items()},
            exact_match=ExactMatch(**values["exact_match"]),
            exact_match_by_tag={tag: ExactMatch(**own) for tag, own in values["exact_match_by_tag"].items()},
            loss=values["loss"],
            warnings=tuple(values["warnings"]),
        )
        parts_of = (scores.by_metric, scores.bleu_by_length, scores.exact_match_by_tag)
        for part in (scores.exact_match, *chain.from_iterable(own.values() for own in parts_of)):
            check(part)
        require(fits(scores.loss, float | None), f"loss must be a number, but is {scores.loss!r:.80}.")
        return scores
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"Cannot read the scores in {file} ({error!r}). Evaluate again.") from error

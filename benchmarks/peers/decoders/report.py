"""Markdown tables and CSV rows of the result of `benchmarks/decoding.py`."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from results import Measured, Row, quartiles, rows_of

from peers.decoders.job import BEAMS
from peers.report import RATIO, divide, median_of
from transformer.inference.translator import Translator

TITLES = {
    "ours:float32": "transformer-jax",
    "ours:bfloat16": "transformer-jax",
    "marian:float32": "Hugging Face Marian",
    "marian:bfloat16": "Hugging Face Marian",
    "ctranslate2_peer:1": "CTranslate2",
    "ctranslate2_peer:2": "CTranslate2",
}
REFERENCE = "ours:float32"
NAMES = {1: "greedy", 4: "beam 4"}
SPEED, EQUAL = ("speed", "sentences/s"), ("translations equal to the float32 translations of transformer-jax", "%")
PROCESSOR, BLEU = ("processor time of 1,000 sentences", "s"), ("BLEU", "")


def measured(result: dict[str, Any], beam: int) -> dict[str, Measured]:
    """The measurements of each successful program with one beam size."""
    sentences, key = result["sentences"], str(beam)
    runs = {name: program for name, program in result["programs"].items() if "failed" not in program}
    seconds = {name: [turn[key]["seconds"] for turn in run["turns"]] for name, run in runs.items()}
    found: dict[str, Measured] = {}
    for name, run in runs.items():
        values: dict[tuple[str, str], Sequence[float]] = {SPEED: [sentences / second for second in seconds[name]]}
        if REFERENCE in runs and name != REFERENCE:
            values[RATIO] = divide(seconds[name], seconds[REFERENCE])
            values[EQUAL] = [100 * run["same"][key]]
        values[PROCESSOR] = [turn[key]["cpu_seconds"] / sentences * 1000 for turn in run["turns"]]
        values[BLEU] = [run["bleu"][key]]
        found[name] = values
    return found


def rows(result: dict[str, Any]) -> list[Row]:
    """The CSV rows of a result. Ratios are relative to this project in float32."""
    found = []
    for beam in BEAMS:
        for name, values in measured(result, beam).items():
            setting = f"{NAMES[beam]}; {result['programs'][name]['note']}"
            found += rows_of(result, result["command"], "decoding", setting, TITLES[name], values)
    return found


def table(result: dict[str, Any]) -> str:
    """The Markdown tables of a result, one per beam size, fastest program first."""
    programs, sentences, parts = result["programs"], result["sentences"], []
    for beam in BEAMS:
        lines = [
            f"**{NAMES[beam]}**, {sentences:,} sentences, length penalty {result['length_penalty']:g}",
            "",
            "| program | sentences/s (quartiles) | time relative to ours, float32 | processor seconds per 1,000 | BLEU "
            "| equal to ours, float32 | first | warm | compute dtype |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        found = measured(result, beam)
        for name in sorted(found, key=lambda name: -statistics.median(found[name][SPEED])):
            run, values = programs[name], found[name]
            low, middle, high = quartiles(values[SPEED])
            cells = (
                TITLES[name],
                f"{middle:,.0f} ({low:,.0f} to {high:,.0f})",
                median_of(values, RATIO, "{:.2f}"),
                median_of(values, PROCESSOR, "{:.2f}"),
                median_of(values, BLEU, "{:.2f}"),
                median_of(values, EQUAL, "{:.1f}%"),
                f"{run['first_step_seconds']:.1f} s",
                f"{run['warm_seconds']:.1f} s",
                run["note"],
            )
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    failed = [f"{name} was not measured: {run['failed']}" for name, run in programs.items() if "failed" in run]
    listed = [
        f"{len(found)} sentences of {name} differ from ours in float32."
        for name, found in result["differences"].items()
    ]
    return "\n\n".join([*parts, "\n".join([*failed, *listed])])


def differences(
    translator: Translator, sources: list[str], translations: dict[str, dict[int, list[list[int]]]], alpha: float
) -> dict[str, list[dict[str, Any]]]:
    """Lists the sentences that CTranslate2's beam search translates differently.

    Returns: For each of its programs, the source, both translations, and our model's score of each.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    beam = max(BEAMS)
    for name in translations if REFERENCE in translations else ():
        if not name.startswith("ctranslate2"):
            continue
        pairs = list(enumerate(zip(translations[REFERENCE][beam], translations[name][beam], strict=True)))
        differing = [index for index, (ours, theirs) in pairs if ours != theirs]
        found[name] = []
        for index in differing:
            texts = translator.tokenizer.target.decode_batch(
                [translations[one][beam][index] for one in (REFERENCE, name)]
            )
            scores = [score(translator, sources[index], text, alpha) for text in texts]
            found[name].append({"source": sources[index], "ours": texts[0], "theirs": texts[1], "scores": scores})
    return found


def score(translator: Translator, source: str, text: str, alpha: float) -> float | None:
    """The score of a translation that the search maximizes.

    None if the translation is longer than the model allows.
    """
    if len(translator.tokenizer.source.encode_batch([text])[0]) >= translator.model.config.max_positions:
        return None
    log_probs = translator.log_probabilities([source], [text])[0]
    return float(np.sum(log_probs)) / len(log_probs) ** alpha

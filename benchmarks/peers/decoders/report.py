"""The result of `benchmarks/decoding.py` as a table in Markdown, and how translations differ."""

import statistics
from typing import Any

import numpy as np

from peers.decoders.job import BEAMS
from peers.report import quartiles
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


def table(result: dict[str, Any]) -> str:
    """A table for each beam size, programs by speed."""
    programs, sentences, parts = result["programs"], result["sentences"], []
    runs = {name: program for name, program in programs.items() if "failed" not in program}
    for beam in map(str, BEAMS):
        lines = [
            f"**{NAMES[int(beam)]}**, {sentences:,} sentences, length penalty {result['length_penalty']:g}",
            "",
            "| program | sentences/s (quartiles) | ours float32 is faster by | processor seconds for 1,000 | BLEU "
            "| same as ours in float32 | first | warm | computes in |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        seconds = {name: [turn[beam]["seconds"] for turn in run["turns"]] for name, run in runs.items()}
        for name in sorted(runs, key=lambda name: statistics.median(seconds[name])):
            run = runs[name]
            low, middle, high = quartiles([sentences / second for second in seconds[name]])
            faster = same = "-"
            if REFERENCE in runs:
                ratios = [own / ours for own, ours in zip(seconds[name], seconds[REFERENCE], strict=True)]
                faster, same = f"{statistics.median(ratios):.2f}", f"{run['same'][beam]:.1%}"
            processor = statistics.median(turn[beam]["cpu_seconds"] for turn in run["turns"]) / sentences * 1000
            cells = (
                TITLES[name],
                f"{middle:,.0f} ({low:,.0f} to {high:,.0f})",
                faster,
                f"{processor:.2f}",
                f"{run['bleu'][beam]:.2f}",
                same,
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
    """Where CTranslate2's beam search ends elsewhere than ours: both texts, and our model's scores of them."""
    found: dict[str, list[dict[str, Any]]] = {}
    beam = max(BEAMS)
    for name in translations if REFERENCE in translations else ():
        if not name.startswith("ctranslate2"):
            continue
        pairs = list(enumerate(zip(translations[REFERENCE][beam], translations[name][beam], strict=True)))
        places = [place for place, (ours, theirs) in pairs if ours != theirs]
        found[name] = []
        for place in places:
            texts = translator.tokenizer.decode_batch([translations[one][beam][place] for one in (REFERENCE, name)])
            scores = [score(translator, sources[place], text, alpha) for text in texts]
            found[name].append({"source": sources[place], "ours": texts[0], "theirs": texts[1], "scores": scores})
    return found


def score(translator: Translator, source: str, text: str, alpha: float) -> float | None:
    """What the search maximizes, of a text as it is tokenized; None where that has more tokens than positions."""
    if len(translator.tokenizer.encode_batch([text])[0]) >= translator.model.config.max_positions:
        return None
    log_probs = translator.log_probabilities([source], [text])[0]
    return float(np.sum(log_probs)) / len(log_probs) ** alpha

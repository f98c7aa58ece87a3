"""Compares with Marian itself, by hand: `PYTHONPATH=tests/interop python tests/parity/marian_program.py`.

It needs the program `pymarian` of the package pymarian, which may be installed in an environment of its own. The test
suite compares with what Marian said once. docs/interop.md records the result.

Marian 1.12.42 decodes a pre-norm model otherwise than it trains and scores it: from the second token on, the keys and
values of the decoder's self-attention are not normalized. So such a model is compared with Marian's scorer, and what
its decoder finds is compared with a NumPy model that does the same.
"""

import argparse
import dataclasses
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from marian_model import ORDINARY, TINY, Best, hypotheses, marian_says, search, word_scores
from marian_reference import Marian

from transformer.config import DataConfig
from transformer.data.corpus import read_pairs
from transformer.interop.formats import Request, module
from transformer.interop.importing import import_model
from transformer.interop.marian import KEPT, MODEL
from transformer.interop.marian_weights import SETTINGS
from transformer.run import Run

BEAM_SIZES, NORMALIZE = (1, 6), 0.6
SIZES = {"en.spm": 600, "de.spm": 500}
TRAINING = {
    "type": "transformer",
    "enc-depth": 2,
    "dec-depth": 2,
    "dim-emb": 64,
    "transformer-heads": 4,
    "transformer-dim-ffn": 128,
    "mini-batch": 64,
    "max-length": 60,
    "learn-rate": 0.003,
    "lr-warmup": 50,
    "after": "1000u",
    "seed": 1,
    "workspace": 500,
}

POST_NORM = {"transformer-postprocess": "dan", "transformer-ffn-activation": "gelu"}
PRE_NORM = {
    "transformer-preprocess": "n",
    "transformer-postprocess": "da",
    "transformer-postprocess-top": "n",
    "transformer-ffn-activation": "relu",
}


def main() -> None:
    """Prints how many translations agree, and how far scores are apart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--marian", default="pymarian", metavar="PROGRAM", help="the program of the package pymarian")
    marian = parser.parse_args().marian
    with tempfile.TemporaryDirectory() as parent:
        compare_tiny_model(marian, Path(parent))
        compare_trained_models(marian, Path(parent))


def compare_tiny_model(marian: str, parent: Path) -> None:
    """The model of the tests, exported with its own configuration and with a new one."""
    run, _ = import_model(TINY, parent / "tiny-run")
    for configuration in ("its own", "a new"):
        folder = parent / f"tiny with {configuration} configuration"
        export(run, folder)
        for beam_size, name in zip(BEAM_SIZES, ("greedy", "beam6"), strict=True):
            expected = [found[0] for found in marian_says(name)[: len(ORDINARY)]]
            found = decode(marian, folder, ORDINARY, beam_size)
            compare(f"Marian with the export ({configuration} configuration), beam {beam_size}", expected, found)
        (parent / "tiny-run" / KEPT).unlink(missing_ok=True)


def compare_trained_models(marian: str, parent: Path) -> None:
    """Two models with two vocabularies, which Marian trains now: post-norm with gelu and pre-norm with relu."""
    sentences = read_pairs(DataConfig(corpus="package:quickstart.jsonl.xz"), "test")[0].sources[:200]
    for name, settings in (("post-norm", POST_NORM), ("pre-norm", PRE_NORM)):
        model, exported = parent / name, parent / f"{name}-exported"
        train(marian, model, settings)
        run, _ = import_model(model, parent / f"{name}-run")
        (parent / f"{name}-run" / KEPT).unlink()
        export(run, exported)
        before, after = weights(model), weights(exported)
        same = {*before} == {*after} and all(before[leaf].tobytes() == after[leaf].tobytes() for leaf in before)
        print(f"{name}: {len(before)} weights, imported and exported: {'equal' if same else 'DIFFERENT'}", flush=True)
        for beam_size in BEAM_SIZES:
            decoded, found = decode(marian, model, sentences, beam_size), ours(run, sentences, beam_size)
            again = decode(marian, exported, sentences, beam_size)
            compare(f"{name}: Marian with the export, beam {beam_size}", decoded, again)
            if settings is POST_NORM:
                compare(f"{name}: our run, beam {beam_size}", decoded, found)
            else:
                print(f"{name}: {sum(map(same_text, decoded, found))} translations like Marian's, beam {beam_size}")
        if settings is PRE_NORM:
            compare_scorer(marian, model, run, sentences)
            compare_decoder(marian, model, run, sentences[:40])


def compare_scorer(marian: str, model: Path, run: Run, sentences: Sequence[str]) -> None:
    """What Marian's scorer says of our greedy translations. It tokenizes them, as we do here."""
    texts = [one.text for one in ours(run, sentences, 1)]
    scored = zip(run.log_probabilities(sentences, texts), score(marian, model, sentences, texts), strict=True)
    apart = max(np.abs(own - theirs).max() for own, theirs in scored)
    print(f"pre-norm: Marian's scorer of our {len(texts)} greedy translations, scores of words up to {apart:.1e} apart")


def compare_decoder(marian: str, model: Path, run: Run, sentences: Sequence[str]) -> None:
    """Whether the missing norm explains what Marian's decoder finds, whose tokens may be others than its text's."""
    reference = Decoder(weights(model), TRAINING["transformer-heads"], "relu", True, "target")
    same = 0
    for source, found in zip(sentences, decode(marian, model, sentences, 1), strict=True):
        ids, target = run.tokenizer.source.encode(source), run.tokenizer.target.encode(found.text)
        expected = reference.log_probabilities([*ids, 0], [*target, 0])
        same += len(expected) == len(found.word_scores) and np.allclose(expected, found.word_scores, rtol=0, atol=1e-4)
    print(f"pre-norm: without the norm, NumPy gives the scores of {same} of {len(sentences)} translations of Marian")


class Decoder(Marian):
    """Marian's decoder of a pre-norm model: after the first token, keys and values are not normalized."""

    def around(self, name: str, x: np.ndarray, layer: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        if not name.startswith("decoder") or not name.endswith("self_Wo"):
            return super().around(name, x, layer)
        queries, attention = self.norm(f"{name}_ln_{{}}_pre", x), name.removesuffix("_Wo")
        found = [self.attend(attention, queries[:1], queries[:1], False)]
        found += [self.attend(attention, queries[t : t + 1], x[: t + 1], False) for t in range(1, len(x))]
        return x + np.vstack(found)


def weights(folder: Path) -> dict[str, np.ndarray]:
    """The weights of a model, by their names."""
    with np.load(folder / MODEL) as arrays:
        return {name: arrays[name] for name in arrays.files if name != SETTINGS}


def export(run: Run, folder: Path) -> None:
    """Writes a run as a model of Marian."""
    assert run.run_dir is not None
    module("marian").write(run, Request(run.run_dir, folder, run.config.search))


def train(marian: str, folder: Path, settings: Mapping[str, str]) -> None:
    """Lets Marian learn two vocabularies and a model from 5,000 pairs of the quickstart's corpus."""
    folder.mkdir()
    pairs = read_pairs(DataConfig(corpus="package:quickstart.jsonl.xz"), "train")[0]
    files = [folder / "train.en", folder / "train.de"]
    for file, lines in zip(files, (pairs.sources, pairs.targets), strict=True):
        write_lines(file, lines[:5_000])
    options = [text for name, value in {**TRAINING, **settings}.items() for text in (f"--{name}", str(value))]
    options += ["--model", str(folder / MODEL), "--train-sets", *map(str, files), "--tied-embeddings"]
    options += ["--vocabs", *(str(folder / name) for name in SIZES), "--dim-vocabs", *map(str, SIZES.values())]
    call(marian, "train", *options)


def write_lines(file: Path, lines: Sequence[str]) -> None:
    """Writes a text file."""
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def decode(marian: str, folder: Path, sentences: Sequence[str], beam_size: int) -> list[Best]:
    """Marian's best translation of each sentence."""
    settings = "--beam-size", str(beam_size), "--normalize", str(NORMALIZE if beam_size > 1 else 0)
    # The longest source of a batch limits the length of all its translations, so batches must be the same.
    batches = "--mini-batch", "32", "--maxi-batch", "100", "--maxi-batch-sort", "src"
    options = *settings, *batches, "--max-length", "300", "--n-best", "--word-scores"
    lines = "".join(f"{sentence}\n" for sentence in sentences)
    text = call(marian, "decode", "-c", str(folder / f"{MODEL}.decoder.yml"), *options, stdin=lines)
    return [found[0] for found in hypotheses(text)]


def score(marian: str, folder: Path, sources: Sequence[str], targets: Sequence[str]) -> list[np.ndarray]:
    """The score of each word of given translations, by Marian's scorer."""
    files = [folder / "scored.en", folder / "scored.de"]
    for file, lines in zip(files, (sources, targets), strict=True):
        write_lines(file, lines)
    vocabularies = [str(folder / name) for name in SIZES]
    options = "-m", str(folder / MODEL), "-v", *vocabularies, "-t", *map(str, files), "--word-scores"
    lines = call(marian, "score", *options).splitlines()
    return [np.array(line.partition("WordScores= ")[2].split(), float) for line in lines]


def call(*command: str, stdin: str = "") -> str:
    """Runs Marian on one core."""
    command = *command, "--cpu-threads", "1", "--quiet"
    result = subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8")
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return result.stdout


def ours(run: Run, sentences: Sequence[str], beam_size: int) -> list[Best]:
    """Our best translation of each sentence, with a beam's score divided by the length as Marian does."""
    penalty = NORMALIZE if beam_size > 1 else 0.0
    settings = dataclasses.replace(run.config.search, beam_size=beam_size, length_penalty=penalty, batch_tokens=2**14)
    found = search(run, sentences, settings)
    scores = word_scores(run, sentences, [one.tokens for one in found])
    return [Best(one.text, words.tolist(), one.score) for one, words in zip(found, scores, strict=True)]


def same_text(one: Best, two: Best) -> bool:
    """Tells whether two translations have the same text."""
    return one.text == two.text


def compare(name: str, expected: Sequence[Best], found: Sequence[Best]) -> None:
    """Prints how many texts are equal, how far the scores of equal ones are apart, and those that differ."""
    pairs = list(zip(expected, found, strict=True))
    equal = [pair for pair in pairs if same_text(*pair)]
    words = max(np.abs(np.subtract(one.word_scores, two.word_scores)).max() for one, two in equal)
    scores = max(abs(one.score - two.score) for one, two in equal)
    print(f"{name}: {len(equal)} of {len(pairs)} texts equal, scores of words up to {words:.1e} apart, ", end="")
    print(f"scores of texts up to {scores:.1e} apart", flush=True)
    for one, two in pairs:
        if not same_text(one, two):
            print(f"  {one.score:.5f} {one.text!r}, but {two.score:.5f} {two.text!r}")


if __name__ == "__main__":
    main()

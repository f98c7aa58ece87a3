"""Translation of random sentences with random weights, all to the same length, by this project and two others.

The programs are those of `decoding.py`, with the settings that MarianMTModel has. Every program gets all sentences at
once, so the time includes making batches.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from peers.decoders.job import BEAMS, MARIAN, Job

from accelerators.record import Record
from transformer.config import ModelConfig

SENTENCES, TOKENS = 1000, 24  # number of sentences, and median of their lengths
LENGTH = 32  # tokens of every translation, including the end token
BATCH = 1000  # sentences of a batch of Marian, whose loop in Python costs as much for a small one
RUNS = 3  # measured runs, of which the median counts


def run(variant: str, record: Record) -> None:
    with tempfile.TemporaryDirectory(prefix="decode-") as folder:
        start = time.perf_counter()
        translate = {"ours": ours, "marian": marian, "ctranslate2": ctranslate2}[variant](record, Path(folder))
        record.add(variant, ready_seconds=time.perf_counter() - start)
        for beam in BEAMS:
            name = f"{variant}, {'greedy' if beam == 1 else f'beam {beam}'}"
            record.attempt(name, lambda beam=beam: measure(translate, sentences(record), beam))


Translate = Callable[[list[list[int]], int], list[list[int]]]
"""Translates sentences of token ids with a beam of the given size."""


def measure(translate: Translate, sources: list[list[int]], beam: int) -> dict[str, Any]:
    """The time of the first translation of all sentences, which may compile, and of further ones."""
    start = time.perf_counter()
    found = translate(sources, beam)
    first, seconds = time.perf_counter() - start, []
    for _ in range(RUNS):
        start = time.perf_counter()
        found = translate(sources, beam)
        seconds.append(time.perf_counter() - start)
    middle, lengths = sorted(seconds)[RUNS // 2], [len(tokens) for tokens in found]
    return {
        "seconds": middle,
        "sentences_per_second": len(sources) / middle,
        "first_seconds": first,
        "shortest": min(lengths),  # in tokens, without the end token
        "longest": max(lengths),
    }


def model_settings(record: Record) -> ModelConfig:
    """The config of the base model, with the settings that every program supports."""
    from accelerators.parts.model import size_of

    settings: Any = MARIAN
    return dataclasses.replace(size_of("base", record).config(), **settings)


def sentences(record: Record) -> list[list[int]]:
    """Random token ids, each sentence with the end id."""
    generator, vocabulary = np.random.default_rng(0), 300 if record.tiny else 37_000
    lengths = np.clip(generator.normal(TOKENS, TOKENS / 3, 8 if record.tiny else SENTENCES), 4, 62).astype(int)
    return [[*generator.integers(3, vocabulary, length).tolist(), 2] for length in lengths]


def ours(record: Record, folder: Path) -> Translate:
    import jax
    import jax.numpy as jnp

    from accelerators.parts.model import require_accelerator
    from transformer import parameters
    from transformer.config import SearchConfig
    from transformer.inference.decoding import SearchIds, decode
    from transformer.model import Transformer
    from transformer.runtime import resolve_dtype

    require_accelerator(record)
    model = Transformer(model_settings(record), dtype=jnp.dtype(resolve_dtype("auto")[0]))
    params = jax.device_put(parameters.draw(model, 0))

    def translate(sources: list[list[int]], beam: int) -> list[list[int]]:
        search = SearchConfig(beam_size=beam, length_penalty=0.0, min_length=LENGTH, max_length=LENGTH)
        found: list[list[int]] = [[]] * len(sources)
        without_end = [source[:-1] for source in sources]
        numbers = np.arange(len(sources))
        for indices, best in decode(((model, params),), without_end, numbers, search, SearchIds(0, 1, 2)):
            for row, index in enumerate(indices):
                found[index] = best.tokens[row, 0, : best.lengths[row, 0] - 1].tolist()
        return found

    return translate


class Numbers(NamedTuple):
    """A tokenizer whose tokens are their ids."""

    size: int
    pad_id: int = 0
    start_id: int = 1
    end_id: int = 2

    @property
    def source(self) -> "Numbers":
        return self

    target = source

    def spellings(self) -> list[str]:
        return [str(number) for number in range(self.size)]


def params_on_the_host(config: ModelConfig) -> Any:
    """Draws the same weights as ours on the CPU, which leaves the memory of a GPU to the other program."""
    import jax
    import jax.numpy as jnp

    from transformer import parameters
    from transformer.model import Transformer

    jax.config.update("jax_platforms", "cpu")
    return parameters.draw(Transformer(config, dtype=jnp.dtype("float32")), 0)["params"]


def job_of(record: Record, folder: Path, params: Any) -> Job:
    """Writes the task of another program."""
    from flax.traverse_util import flatten_dict

    arrays: Any = flatten_dict(params, sep="/")
    np.savez(folder / "weights.npz", **arrays)
    (folder / "sentences.json").write_text(json.dumps(sentences(record)), encoding="utf-8")
    names = {"weights": "weights.npz", "sentences": "sentences.json", "ctranslate2": "ctranslate2"}
    files = {"run": "", **{name: str(folder / file) for name, file in names.items()}}
    ids = {"pad_id": 0, "start_id": 1, "end_id": 2}
    search = {"length_penalty": 0.0, "extra_length": 50, "forced_length": LENGTH}
    return Job(**files, **ids, **search, model=model_settings(record), device="cpu" if record.tiny else "gpu")


def marian(record: Record, folder: Path) -> Translate:
    from peers.decoders.marian import Marian

    program = Marian(job_of(record, folder, params_on_the_host(model_settings(record))), "bfloat16")
    return lambda sources, beam: program.translate(sources, beam, BATCH)


def ctranslate2(record: Record, folder: Path) -> Translate:
    from peers.decoders.ctranslate2_peer import CTranslate2

    from transformer.interop.ctranslate2 import make_spec

    config = model_settings(record)
    params, tokenizer = params_on_the_host(config), Numbers(config.vocabulary_size)
    job, own = job_of(record, folder, params), Path(folder) / "ctranslate2"
    own.mkdir()
    make_spec(config, params, cast(Any, tokenizer)).save(str(own))
    program = CTranslate2(job, "1")
    return lambda sources, beam: program.translate(sources, beam, 256)

"""This project with the start-up and batches of `transformer translate`.

It translates from token ids to token ids.
"""

from transformer.runtime import keep_freed_memory, use_compilation_cache

keep_freed_memory()
use_compilation_cache()

import numpy as np

from peers.decoders.job import Job
from transformer.config import SearchConfig
from transformer.inference.decoding import SearchIds, decode
from transformer.inference.translator import load


class Ours:
    packages = ("transformer-jax", "jax", "jaxlib", "flax")
    batch_sizes = ()

    def __init__(self, job: Job, dtype: str) -> None:
        self.note, self._job = dtype, job
        self._members = load(job.run, dtype="bfloat16" if dtype == "bfloat16" else "float32").members
        self._ids = SearchIds(job.pad_id, job.start_id, job.end_id)

    def translate(self, sentences: list[list[int]], beam_size: int, batch_size: int) -> list[list[int]]:
        search = SearchConfig(
            beam_size=beam_size,
            length_penalty=self._job.length_penalty,
            length_penalty_form="power",
            extra_length=self._job.extra_length,
        )
        sources = [sentence[:-1] for sentence in sentences]
        found: list[list[int]] = [[]] * len(sentences)
        for indices, best in decode(self._members, sources, np.arange(len(sources)), search, self._ids):
            for row, index in enumerate(indices):
                found[index] = best.tokens[row, 0, : best.lengths[row, 0] - 1].tolist()
        return found


start = Ours

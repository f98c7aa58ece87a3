"""CTranslate2 with our model, as `transformer export` writes it.

It sorts sentences by length and makes batches itself. The fastest of several
batch sizes is measured.
"""

import json
import os
from pathlib import Path

import ctranslate2

from peers.decoders.job import Job


class CTranslate2:
    packages = ("ctranslate2",)
    batch_sizes = (32, 64, 128)

    def __init__(self, job: Job, workers: str) -> None:
        """Loads the translator, with the given number of parallel workers.

        On a CPU, the workers share the cores, and each translates one batch at a time.
        """
        cores, number, self._job = len(os.sched_getaffinity(0)), int(workers), job
        folder, dtype = Path(job.ctranslate2), "float16" if job.device == "gpu" else "float32"
        self._tokens = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
        self._ids = {token: index for index, token in enumerate(self._tokens)}
        self._translator = ctranslate2.Translator(
            str(folder),
            device="cuda" if job.device == "gpu" else "cpu",
            compute_type=dtype,
            inter_threads=number,
            intra_threads=max(1, cores // number),
        )
        self.note = f"{dtype}, {number} {'worker' if number == 1 else 'workers'}"

    def translate(self, sentences: list[list[int]], beam_size: int, batch_size: int) -> list[list[int]]:
        results = self._translator.translate_batch(
            [[self._tokens[index] for index in sentence] for sentence in sentences],
            max_batch_size=batch_size,
            beam_size=beam_size,
            length_penalty=self._job.length_penalty,
            max_decoding_length=self._job.max_length,
            min_decoding_length=self._job.forced_length or 1,
        )
        return [[self._ids[token] for token in result.hypotheses[0]] for result in results]


start = CTranslate2

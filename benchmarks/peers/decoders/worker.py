"""The child process that builds and warms up a program, and translates.

    python -m peers.decoders.worker MODULE:VARIANT JOB.json

It answers each line of standard input with one line of JSON. Between two lines it sleeps.
"""

import importlib
import json
import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    # Libraries print to standard error instead, so that the parent reads nothing but our answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    name, job_file = sys.argv[1:]
    kind, variant = name.split(":")
    module = importlib.import_module(f"peers.decoders.{kind}")  # before NumPy, because it may set the allocator
    from peers.decoders.job import BEAMS, Job

    job = Job.from_json(Path(job_file).read_text(encoding="utf-8"))
    sentences = job.read_sentences()
    program = module.start(job, variant)
    program.translate(sentences[:1], 1, 1)
    answer(first_step=time.time())

    sizes = {}
    for beam_size in BEAMS:
        seconds = {}
        for size in program.batch_sizes:
            start = time.perf_counter()
            program.translate(sentences[::4], beam_size, size)
            seconds[size] = time.perf_counter() - start
        sizes[beam_size] = min(seconds, key=seconds.__getitem__, default=0)
        program.translate(sentences, beam_size, sizes[beam_size])
    chosen = f", batches of {' and '.join(map(str, sizes.values()))}" if program.batch_sizes else ""
    versions = {package: version(package) for package in program.packages}
    answer(warm=time.time(), note=program.note + chosen, versions=versions)

    idle_since = time.process_time()
    for line in sys.stdin:
        beam_size = json.loads(line)["beam_size"]
        idle = time.process_time() - idle_since
        start, cpu = time.perf_counter(), time.process_time()
        found = program.translate(sentences, beam_size, sizes[beam_size])
        answer(
            seconds=time.perf_counter() - start,
            cpu_seconds=time.process_time() - cpu,
            idle_cpu_seconds=idle,
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            translations=found,
        )
        idle_since = time.process_time()


if __name__ == "__main__":
    main()

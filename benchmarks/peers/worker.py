"""The child process that builds and warms up a program, and runs its steps.

    python -m peers.worker PROGRAM JOB.json [choose]

It answers each line of standard input with one line of JSON. Between two lines it sleeps, which the parent can check by
the processor time in the answers. With `choose` it only reports whether the program is faster in bfloat16 than in
float32.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


def is_faster_in_bfloat16(name: str, job_file: str) -> bool:
    """Tries both dtypes in another process.

    So the peak memory and the caches of this process are not affected.
    """
    command = [sys.executable, "-m", "peers.worker", name, job_file, "choose"]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)["bfloat16"]


def main() -> None:
    # Libraries print to standard error instead, so that the parent reads nothing but our answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    name, job_file, *choose = sys.argv[1:]
    kind, _, variant = name.partition(":")
    module = importlib.import_module(f"peers.{kind}")  # before NumPy, because it may set the allocator
    from peers.job import Arrays, Job

    job = Job.from_json(Path(job_file).read_text(encoding="utf-8"))
    if name == "limit":
        module.serve(job, answer)
        return
    program = module.start(job, variant) if variant else module.start(job)

    import numpy as np

    with np.load(job.batches) as file:
        batches = [Arrays(*(file[f"{n}/{field}"] for field in Arrays._fields)) for n in range(job.num_batches)]

    if choose:
        answer(bfloat16=program.is_faster_in_bfloat16(batches[job.warm_up[0]]))
        return
    begun = time.time()
    if job.dtype == "bfloat16" and job.device == "cpu" and hasattr(program, "is_faster_in_bfloat16"):
        program.bfloat16 = is_faster_in_bfloat16(name, job_file)
    choosing = time.time() - begun  # not part of the program's start
    for index, number in enumerate(job.warm_up):
        program.step(batches[number])
        if index == 0:
            program.wait()
            answer(first_step=time.time() - choosing)
    for number in job.warm_up:  # the second step of a shape may still allocate memory or compile
        program.step(batches[number])
    loss = program.wait()
    versions = {package: version(package) for package in program.packages}
    answer(
        warm=time.time() - choosing, parameters=program.num_parameters, note=program.note, versions=versions, loss=loss
    )

    idle_since = time.process_time()
    for line in sys.stdin:
        command = json.loads(line)
        idle = time.process_time() - idle_since
        chosen = batches[command["first"] : command["first"] + command["steps"]]
        program.step(chosen[0])  # not measured, because a system may page out the libraries of a sleeping program
        program.wait()
        start, cpu = time.perf_counter(), time.process_time()
        for batch in chosen:
            program.step(batch)
        loss = program.wait()
        seconds = time.perf_counter() - start
        answer(
            seconds=seconds,
            cpu_seconds=time.process_time() - cpu,
            idle_cpu_seconds=idle,
            loss=loss,
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            device_bytes=program.device_bytes(),
        )
        idle_since = time.process_time()


if __name__ == "__main__":
    main()

"""What launchers tell a process of the others of its job, from simulated environments."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from transformer import launchers
from transformer.launchers import find_job

PREFIXES = (
    *("SLURM_", "OMPI_", "PMI_", "MPI_", "WORLD_SIZE", "RANK", "LOCAL_", "KUBERNETES_", "JOB_", "TPU_", "MEGASCALE_"),
    *("CUDA_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS", "JAX_PLATFORMS"),
)
# What srun tells a task: one on each of two machines.
SRUN = {
    "SLURM_JOB_ID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_STEP_NODELIST": "node[07,09-12],other",
}
SRUN_ON_ONE = SRUN | {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}
SRUN_ONE = SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
SCRIPT = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "3",
}
MPIRUN_4 = MPIRUN | {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.96.0.1:34911"}
MPIEXEC = {"PMI_SIZE": "2", "PMI_RANK": "1"}
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
TPU = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "0"}


@pytest.fixture
def given(monkeypatch):
    """Sets environment variables, of which the process has no others, and which packages are installed."""
    for name in [*os.environ]:
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)

    def given(environment: dict[str, str], *packages: str) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(launchers, "find_spec", lambda name: name if name in packages else None)
        monkeypatch.setattr(launchers, "has_tpu", lambda: True)

    return given


@pytest.mark.parametrize(
    ("environment", "packages"),
    [
        ({}, []),
        (SRUN_ONE, []),  # also an interactive step, whose SLURM_NTASKS is that of the allocation
        (SCRIPT | {"SLURM_NTASKS": "1"}, []),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, []),  # the shell of salloc
        (MPIRUN_4 | {"OMPI_COMM_WORLD_SIZE": "1"}, []),
        (TORCHRUN | {"WORLD_SIZE": "1"}, []),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ["kubernetes"]),
        (TPU, []),
        (TPU | {"JAX_PLATFORMS": "cpu"}, ["libtpu"]),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, ["libtpu"]),
        ({"TPU_SKIP_MDS_QUERY": "1"}, ["libtpu"]),
    ],
)
def test_a_process_without_others(given, environment, packages):
    given(environment, *packages)
    assert find_job() is None


@pytest.mark.parametrize(
    ("environment", "packages", "processes", "detection", "gpus"),
    [
        (SRUN, [], 2, "slurm", []),
        (SRUN_ON_ONE, [], 2, "slurm", [1]),
        (SRUN_ON_ONE | {"CUDA_VISIBLE_DEVICES": "1"}, [], 2, "slurm", []),
        (SRUN_ON_ONE | {"PMI_SIZE": "2", "PMI_RANK": "1"}, [], 2, "slurm", [1]),
        (MPIRUN_4, [], 4, "ompi", [3]),
        (SCRIPT | MPIRUN_4, [], 4, "ompi", [3]),
        (MPIRUN, ["mpi4py"], 4, "mpi4py", [3]),
        (MPIEXEC, ["mpi4py"], 2, "mpi4py", None),
        (POD, ["kubernetes"], None, "", None),
        (TPU, ["libtpu"], 4, "", []),
        (TPU | {"MEGASCALE_NUM_SLICES": "2"}, ["libtpu"], 8, "", []),
        (TPU | POD, ["libtpu"], 4, "", []),
    ],
)
def test_jax_detects_the_others(given, environment, packages, processes, detection, gpus):
    given(environment, *packages)
    job = find_job()
    assert job is not None
    assert (job.processes, job.detection, job.gpus) == (processes, detection, gpus)


@pytest.mark.parametrize(
    ("environment", "found", "advice"),
    [
        (
            SCRIPT,
            "The Slurm job has 2 tasks (SLURM_NTASKS), but srun did not start this process",
            "srun transformer ...",
        ),
        (MPIRUN, "mpirun started 4 processes (OMPI_COMM_WORLD_SIZE)", "4 --process $OMPI_COMM_WORLD_RANK"),
        (MPIEXEC, "mpiexec started 2 processes (PMI_SIZE)", "2 --process $PMI_RANK"),
        (TORCHRUN, "torchrun started 2 processes (WORLD_SIZE)", "2 --process $RANK"),
        (SRUN | TORCHRUN | {"WORLD_SIZE": "4"}, "torchrun started 4 processes (WORLD_SIZE)", "4 --process $RANK"),
        (POD, "This pod belongs to an indexed job of Kubernetes", "N --process $JOB_COMPLETION_INDEX"),
    ],
)
def test_jax_cannot_detect_the_others(given, environment, found, advice):
    given(environment)
    job = find_job()
    assert job is not None
    assert job.detection is None
    assert job.found.startswith(found)
    assert job.advice.endswith(advice)


@pytest.mark.parametrize(
    ("environment", "several_machines", "coordinator"),
    [
        (SRUN, True, "node07"),
        (SRUN | {"SLURM_STEP_NODELIST": "a-1,b[1-3]"}, True, "a-1"),
        (SRUN_ON_ONE | {"SLURM_STEP_NODELIST": "node7"}, False, "node7"),
        (MPIRUN, False, None),
        (MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, True, None),
        (MPIEXEC, False, None),
    ],
)
def test_machines(given, environment, several_machines, coordinator):
    given(environment)
    job = find_job()
    assert job is not None
    assert (job.several_machines, job.coordinator) == (several_machines, coordinator)


def test_the_machines_of_a_cloud_tpu(given, monkeypatch):
    """Without environment variables, its metadata server knows them."""

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Metadata-Flavor"] == "Google"
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            found = {
                "worker-network-endpoints": "a:0:10.0.0.1,b:1:10.0.0.2",
                "tpu-env": "A: '1'\nMEGASCALE_NUM_SLICES: '3'",
            }
            self.send_response(200 if name in found else 404)
            self.end_headers()
            self.wfile.write(found.get(name, "").encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        given({"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}", "no_proxy": "*"}, "libtpu")
        job = find_job()
        server.shutdown()
        thread.join()
    assert job is not None
    assert (job.processes, job.several_machines) == (6, True)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    assert find_job() is None  # a TPU elsewhere

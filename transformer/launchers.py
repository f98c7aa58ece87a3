"""What launchers tell a process of a job, through environment variables.

JAX itself detects `srun`, Open MPI 4, Cloud TPU and Kubernetes (with the package `kubernetes`), and any other MPI with
the package `mpi4py`. This module only finds out whether there is anything to detect.
"""

import os
import re
from importlib.util import find_spec
from typing import NamedTuple

from transformer.runtime import has_tpu


class Job(NamedTuple):
    """The processes that were launched together, as one of them sees them.

    Attributes:
        found: What tells of them, as a sentence without its end.
        processes: Their number. None if only Kubernetes knows it.
        advice: What the user can type so that they join.
        detection: JAX's name for its detection of this launcher; empty if it has none. None if JAX cannot detect it.
        gpus: Which of the machine's GPUs are for this process; empty for all that it sees. None if nothing tells.
        several_machines: Whether the processes are known to be on several machines.
        coordinator: Name of the machine of process 0, where the launcher tells it.
    """

    found: str
    processes: int | None
    advice: str
    detection: str | None
    gpus: list[int] | None = None
    several_machines: bool = False
    coordinator: str | None = None


class _Variables(NamedTuple):
    """Names of variables: the number of processes, that of this one, those on this machine, and which of them it is."""

    processes: str
    process: str
    neighbours: str
    local: str


_OPEN_MPI = _Variables(*(f"OMPI_COMM_WORLD_{name}" for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")))
_MPI = _Variables("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID")
_TORCHRUN = _Variables("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
_SLURM = _Variables("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID")


def find_job() -> Job | None:
    """Returns the job that this process is a part of, or None if it was launched alone.

    mpirun and torchrun are also called inside of a Slurm job, so they are asked first. If srun has as many tasks, it
    started the processes itself (`srun --mpi=pmi2` also sets MPI's variables).
    """
    found = [
        _launched("mpirun", _OPEN_MPI, _mpi()),
        _launched("mpiexec", _MPI, _mpi()),
        _launched("torchrun", _TORCHRUN, None),
        _launched("srun", _SLURM, "slurm"),
        _slurm_script(),
        _cloud_tpu(),
        _kubernetes(),
    ]
    jobs = [job for job in found if job is not None and job.processes != 1]
    if not jobs:
        return None
    same = (job for job in jobs if job.processes == jobs[0].processes and job.detection is not None)
    return next(same, jobs[0])


def _launched(launcher: str, variables: _Variables, detection: str | None) -> Job | None:
    """The job of a launcher that numbers its processes in environment variables."""
    number, process, neighbours, local = (os.environ.get(name, "") for name in variables)
    if not number.isdecimal() or not process.isdecimal():
        return None
    alone = re.fullmatch(r"1(\(x\d+\))?", neighbours)  # Slurm: 1 on each of several machines is 1(x8)
    one_visible = re.fullmatch("[^,]+", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    first = re.match(r"([^,[]+)(?:\[(\d+))?", os.environ.get("SLURM_STEP_NODELIST", "")) if launcher == "srun" else None
    return Job(
        found=f"{launcher} started {number} processes ({variables.processes})",
        processes=int(number),
        advice=f"--coordinator HOST:PORT --processes {number} --process ${variables.process}",
        detection=detection,
        gpus=[] if alone or one_visible else [int(local)] if local.isdecimal() else None,
        several_machines=neighbours not in ("", number),
        coordinator=first and "".join(filter(None, first.groups())),
    )


def _mpi() -> str | None:
    if "OMPI_MCA_orte_hnp_uri" in os.environ:  # Open MPI 4
        return "ompi"
    return "mpi4py" if find_spec("mpi4py") is not None else None


def _slurm_script() -> Job | None:
    """A job script that Slurm runs once, although the job has several tasks."""
    number = os.environ.get("SLURM_NTASKS", "")
    if "SLURM_PROCID" not in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ or not number.isdecimal():
        return None
    found = f"The Slurm job has {number} tasks (SLURM_NTASKS), but srun did not start this process"
    return Job(found, int(number), "srun transformer ...", detection=None)


def _kubernetes() -> Job | None:
    """An indexed job of Kubernetes, which tells a pod its index but not how many there are."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ or "JOB_COMPLETION_INDEX" not in os.environ:
        return None
    return Job(
        found="This pod belongs to an indexed job of Kubernetes (JOB_COMPLETION_INDEX)",
        processes=None,
        advice="--coordinator HOST:PORT --processes N --process $JOB_COMPLETION_INDEX",
        detection="" if find_spec("kubernetes") is not None else None,
    )


def _cloud_tpu() -> Job | None:
    """The machines of a Cloud TPU, of all its slices."""
    if "tpu" not in os.environ.get("JAX_PLATFORMS", "tpu") or find_spec("libtpu") is None or not has_tpu():
        return None
    machines = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    slices = os.environ.get("MEGASCALE_NUM_SLICES")
    if machines is None and "TPU_SKIP_MDS_QUERY" not in os.environ:
        machines = _metadata("worker-network-endpoints")
        slices = slices or "".join(re.findall(r"MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata("tpu-env")))
    number = (1 + (machines or "").count(",")) * int(slices or 1)
    found = f"This Cloud TPU has {number} machines"
    return Job(found, number, f"--coordinator HOST:PORT --processes {number} --process I", "", [], True)


def _metadata(name: str) -> str:
    """An attribute of a virtual machine of Google Cloud; empty where there is none."""
    from urllib.request import Request, urlopen

    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")  # the variable is JAX's
    address = f"http://{host}/computeMetadata/v1/instance/attributes/{name}"
    try:
        with urlopen(Request(address, headers={"Metadata-Flavor": "Google"}), timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""

"""How a process of a job joins the others, before JAX asks for devices.

A process is told about the others by `--coordinator`, `--processes` and `--process`, or by its launcher, which JAX
detects. One that was launched with others but cannot join them is refused. Otherwise each would train the same run.

**Loopback.** An address such as 127.0.0.1 leads from each machine to itself, and JAX would wait without an error.
`localhost` or such an address is accepted unless the launcher says that there are several machines. Any other name that
resolves to one is accepted only on the machine of this name. There it is harmless, and Debian's `/etc/hosts` has such a
line: the coordinator listens on all addresses. But CPUs of several machines also need names of their own that do not.

**GPUs.** A process that shares its machine with others of its job gets the GPU of its number on the machine. A process
that is alone on its machine, or sees only one GPU, gets all it sees. `JAX_LOCAL_DEVICE_IDS` overrides this.
"""

import ipaddress
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformer.errors import InputError, require
from transformer.launchers import Job, find_job
from transformer.runtime import computes_on_cpu

WAIT = 300
"""Seconds until a process gives up waiting for the others to start."""
HEARTBEAT = 20
"""Seconds without a sign of life after which a process counts as dead, and JAX ends the others."""
GRACE = 5
"""Seconds that a process which failed waits for others that failed in the same way."""


def join(coordinator: str | None, processes: int | None, process: int | None, *, preemption: bool = True) -> None:
    """Joins the other processes of the job.

    Without others, it returns at once and does not import jax.

    Args:
        coordinator: HOST:PORT at which process 0 listens and the others call, or None.
        processes: Number of processes, or None. 1 needs no other argument, and joins nothing.
        process: Number of this process, from 0, or None.
        preemption: Whether JAX takes SIGTERM, so that `processes.check` can stop all processes at the same step.

    Raises:
        InputError: The arguments do not fit together, the address cannot be right, the process was launched with others
            but JAX cannot detect them, or JAX failed.
    """
    if (coordinator, processes, process) == (None, None, None):
        if (job := find_job()) is not None:
            _join_launched(job, preemption)
    elif (coordinator, processes, process) != (None, 1, None):
        _join_given(coordinator, processes, process, preemption)


def joined() -> bool:
    """Returns whether this process has joined others, without importing jax or starting its backend."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def leave(status: int) -> None:
    """Leaves the job after an error.

    If all processes have the same error, they end as usual. Otherwise this process ends at once, because JAX would wait
    for the others. They then notice that it has gone.

    Args:
        status: The exit status.
    """
    if not joined():
        return
    from orbax.checkpoint import multihost

    try:
        multihost.get_barrier_sync_fn()(key="transformer/left", timeout_ms=1000 * GRACE)
    except Exception:  # of JAX's runtime, in any state
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _join_given(coordinator: str | None, processes: int | None, process: int | None, preemption: bool) -> None:
    """Joins by the options of the command line."""
    if coordinator is None or processes is None or process is None:
        options = {"--coordinator": coordinator, "--processes": processes, "--process": process}
        missing = [option for option, value in options.items() if value is None]
        raise InputError(
            f"{' and '.join(missing)} missing. Several processes need --coordinator HOST:PORT, --processes N and "
            "--process I, and a single one needs none of them."
        )
    host, _, port = coordinator.rpartition(":")
    require(
        bool(host) and port.isdecimal() and 0 < int(port) < 2**16,
        f"--coordinator must be HOST:PORT with a port from 1 to 65535, but is {coordinator!r}.",
    )
    require(
        process < processes,
        f"--process {process} is not one of --processes {processes}, which are numbered from 0 to {processes - 1}.",
    )
    if processes == 1:
        return
    job = find_job()
    _require_reachable(host.strip("[]"), job is not None and job.several_machines)
    if process == 0:
        _require_free(int(port))
    _initialize(
        f"There should be {processes} processes at {coordinator}",
        "Check that address, and that each process has a number of its own.",
        gpus=(job.gpus if job else None) or [],
        preemption=preemption,
        coordinator_address=coordinator,
        num_processes=processes,
        process_id=process,
    )


def _join_launched(job: Job, preemption: bool) -> None:
    """Joins by JAX's detection."""
    by_hand = f"Type {job.advice}, or --processes 1 if this process is to work alone."
    unknown = "" if " but " in job.found else ", but JAX cannot join them by itself"
    require(job.detection is not None, f"{job.found}{unknown}. {by_hand}")
    _require_reachable(job.coordinator, job.several_machines)
    method = job.detection or None
    _initialize(job.found, by_hand, job.gpus, preemption, num_processes=job.processes, cluster_detection_method=method)


def _require_reachable(coordinator: str | None, several_machines: bool) -> None:
    """Raises InputError if other machines would look for the coordinator, or for this machine, in themselves."""
    here = socket.gethostname()
    if coordinator is not None and _is_loopback(coordinator):
        is_name = re.fullmatch(r"localhost|[\d.]+|.*:.*", coordinator) is None
        require(
            coordinator.partition(".")[0] == here.partition(".")[0] if is_name else not several_machines,
            f"The coordinator {coordinator} is a loopback address on {here}, and leads from each machine to itself. "
            "Give --coordinator the address of the machine of process 0 in your network.",
        )
    require(
        not (several_machines and computes_on_cpu() and _is_loopback(here)),
        f"{here}, the name of this machine, resolves to a loopback address, but CPUs of several machines reach each "
        "other by these names. Give it the address in your network, in /etc/hosts.",
    )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None)
    except UnicodeError as error:
        raise InputError(f"{host!r} is not the name of a machine ({error}).") from error
    except OSError:  # the name may appear later, as on Kubernetes
        return False
    return any(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def _require_free(port: int) -> None:
    """Raises InputError if process 0 cannot listen on the port, for which JAX 0.10 and 0.11 have no exception."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise InputError(
            f"Cannot listen on port {port} ({os.strerror(error.errno or 0)}). Give --coordinator another."
        ) from error


def _initialize(found: str, advice: str, gpus: list[int] | None, preemption: bool, **settings: Any) -> None:
    """Calls `jax.distributed.initialize`.

    Args:
        found: The sentence that tells of the other processes, without its end.
        advice: What to do if JAX fails.
        gpus: The GPUs of this process; empty for all that it sees, None to let JAX decide.
        preemption: As in `join`.
        settings: Further arguments.
    """
    import jax

    jax.config.update("jax_enable_preemption_service", preemption)
    with _patience(found):
        try:
            jax.distributed.initialize(
                local_device_ids=None if "JAX_LOCAL_DEVICE_IDS" in os.environ else gpus,
                initialization_timeout=2 * WAIT,  # at which JAX would abort the process
                heartbeat_timeout_seconds=HEARTBEAT,
                **settings,
            )
        except Exception as error:  # JAX's detection raises what other packages raise
            reason = str(error).strip().rstrip(".") or repr(error)
            raise InputError(f"{found}, but this one cannot join the others ({reason}). {advice}") from error


@contextmanager
def _patience(found: str) -> Iterator[None]:
    """Ends the process if the body waits too long, and lets Ctrl-C end it.

    Python cannot interrupt the body, which is native code.
    """

    def give_up() -> None:
        sys.stderr.write(
            f"error: {found}, but not all came within {WAIT} s. Check that all were started, and that they reach the "
            "coordinator through firewalls and proxies.\n"
        )
        sys.stderr.flush()
        os._exit(2)

    timer = threading.Timer(WAIT, give_up)
    timer.daemon = True
    timer.start()
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        timer.cancel()
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)

"""The tests of `ops`, of the model and of the paper on the device."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from accelerators.record import Record

ROOT = Path(__file__).resolve().parents[3]
FILES = ("ops", "test_model.py", "test_model_calls.py", "test_stack.py", "test_packed_rows.py", "test_paper.py")
TINY = ("ops/test_masks.py",)
WORKERS = 8


class Outcomes:
    """Plugin of pytest that records each outcome as soon as it is known."""

    def __init__(self, record: Record) -> None:
        self._record, self._counts = record, {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        self._counts[report.outcome] += 1
        self._record.add("tests", **self._counts)
        if report.failed:
            lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            reason = lines[0].removeprefix("E").strip() if lines else report.longreprtext.strip()[-200:]
            self._record.add(f"FAILED {report.nodeid}", phase=report.when, reason=reason[:300])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._record.add(f"NOT COLLECTED {report.nodeid}", reason=report.longreprtext.strip()[-300:])


def run(variant: str, record: Record) -> None:
    """Runs the tests without the options and the strict warnings that the project's settings name.

    These need packages which the machine may not have, and the point is what the device computes.
    """
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes share the device
    os.chdir(ROOT)
    parallel = ["-n", str(WORKERS), "--dist", "load"] if find_spec("xdist") and not record.tiny else []
    files = [str(ROOT / "tests" / name) for name in (TINY if record.tiny else FILES)]
    options = ["-o", "addopts=", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "-q", "-m", "not slow"]
    status = pytest.main([*options, *parallel, *files], plugins=[Outcomes(record)])
    record.add("tests", exit_status=int(status), processes=WORKERS if parallel else 1)

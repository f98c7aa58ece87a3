"""Measurements of one process, written to a file as soon as each is made."""

import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Record:
    """The measurements of one process by name.

    Attributes:
        folder: Where the parts that are already measured have their files.
        tiny: Whether the sizes are tiny, which allows any device.
    """

    def __init__(self, file: Path, folder: Path, tiny: bool) -> None:
        """Starts without measurements. They are written to `file`."""
        self.folder, self.tiny = folder, tiny
        self._file, self._measured = file, dict[str, Any]()

    def add(self, name: str, **values: Any) -> None:
        """Adds values to a measurement, and writes all of them."""
        self._measured.setdefault(name, {}).update(values)
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._measured), encoding="utf-8")
        new.replace(self._file)  # the process may be killed at any time

    def attempt(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Makes a measurement. If it fails, the first line of the error is recorded instead."""
        try:
            self.add(name, **measure())
        except Exception as error:  # whatever fails on a device must not prevent the other measurements
            traceback.print_exc()
            self.add(name, failed=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}")

    def limit(self) -> float | None:
        """The measured speed of bfloat16 products in FLOP/s, or None if it has not been measured."""
        file = self.folder / "limit.json"
        if not file.exists():
            return None
        products = json.loads(file.read_text(encoding="utf-8"))["measurements"].get("product bfloat16", {})
        return 1e12 * products["teraflops"] if "teraflops" in products else None


def median_seconds(run: Callable[[], Any], wait: Callable[[Any], Any], calls: int, windows: int = 3) -> float:
    """The median over several windows of the mean time of a call.

    Args:
        run: Starts one call. Its result belongs to the device and may not be ready yet.
        wait: Waits for a result.
        calls: Calls of a window, which are waited for together at its end.
        windows: Number of windows. Another call before them is not measured.
    """
    result, found = run(), []
    wait(result)
    for _ in range(windows):
        start = time.perf_counter()
        for _ in range(calls):
            result = run()
        wait(result)
        found.append((time.perf_counter() - start) / calls)
    return statistics.median(found)

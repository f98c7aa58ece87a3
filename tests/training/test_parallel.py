import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from transformer.shapes import Batch
from transformer.training.parallel import num_devices, split


def test_on_eight_devices():
    """Runs `on_eight_devices.py` in a process of its own, because JAX fixes the number of devices when it starts."""
    environment = os.environ | {
        # Compiling takes nearly all of the time; the older emitters compute the same as XLA's fusion emitters.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/training/on_eight_devices.py"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_rows_are_split_in_turn(make_batch, monkeypatch):
    assert num_devices() == jax.local_device_count()
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    batch = make_batch(0, rows=12, S=5, T=4, empty_rows=3)
    rows = split(batch, 3).row
    assert rows.tolist() == [[[0, 6], [1, 7], [2, 8]], [[3, 9], [4, 10], [5, 11]]]
    assert split(batch).row.tolist() == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]
    for dealt in (split(batch, 3), split(batch)):
        for all_rows, parts in zip(jax.tree.leaves(batch), jax.tree.leaves(dealt), strict=True):
            assert parts.dtype == all_rows.dtype
            np.testing.assert_array_equal(parts, all_rows[dealt.row])
    assert isinstance(split(batch), Batch)

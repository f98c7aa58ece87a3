"""Loggers get what `metrics.jsonl` has, once, also when a run is resumed."""

import math
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from transformer.config import Config, TrainingConfig
from transformer.errors import InputError
from transformer.training import loggers
from transformer.training.metrics import MetricsLog

# Steps and values, of which the run is resumed from step 4.
LINES = [(2, {"loss": 3.0, "norm/encoder/0": 0.5}), (4, {"loss": math.nan}), (4, {"validation_loss": 2.5})]
LOST = (6, {"loss": 9.0})
AGAIN = (6, {"loss": 2.0})
# A value that is not finite is left out.
EXPECTED = [(2, "loss", 3.0), (2, "norm/encoder/0", 0.5), (4, "validation_loss", 2.5), (6, "loss", 2.0)]


def config_of(run_dir: Path, *names: Any) -> Config:
    return Config(run_dir=str(run_dir), training=TrainingConfig(loggers=names))


def log_and_resume(config: Config) -> None:
    for first, lines in ((0, [*LINES, LOST]), (4, [AGAIN])):
        with (
            loggers.opened(config) as writes,
            MetricsLog(Path(config.run_dir) / "metrics.jsonl", first, loggers=writes) as log,
        ):
            for step, values in lines:
                log.write(step, **values)


def test_tensorboard_has_each_step_once(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    log_and_resume(config_of(tmp_path, "tensorboard"))
    (file,) = (tmp_path / "tensorboard").iterdir()
    found, data = [], file.read_bytes()
    while data:  # a record is its length, a checksum of that, the event, and its checksum
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    assert found == EXPECTED


def test_wandb_is_offline_and_has_each_step_once(tmp_path, monkeypatch):
    """The package is replaced by one that records calls: it starts a process of its own."""
    sessions: list[tuple[dict[str, Any], list[tuple[int, str, float]]]] = []

    class Run:
        def __init__(self, **options: Any) -> None:
            sessions.append((options, []))

        def log(self, values: Mapping[str, float], step: int) -> None:
            sessions[-1][1].extend((step, name, value) for name, value in values.items())

        def __enter__(self) -> "Run":
            return self

        def __exit__(self, *_: object) -> None:
            sessions[-1][0]["ended"] = True

    old = tmp_path / "wandb" / "offline-run-1"
    old.mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=Run, Settings=dict))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.setenv("WANDB_MODE", "online")
    log_and_resume(config_of(tmp_path, "wandb"))
    assert not old.exists()
    assert [(options["mode"], options["dir"], options["ended"]) for options, _ in sessions] == [
        ("offline", str(tmp_path), True)
    ] * 2
    assert sessions[-1][0]["config"]["training"]["loggers"] == ("wandb",)
    assert sessions[-1][1] == EXPECTED


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_named(monkeypatch, name, package):
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(
        InputError, match=rf"loggers {name} needs the package {package}\. .*'transformer-jax\[{name}\]'"
    ):
        loggers.require_packages((name,))
    loggers.require_packages(())

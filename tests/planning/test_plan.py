"""What `transformer plan` says, against counts made by hand and the run itself."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from transformer.cli import main
from transformer.cli.plan import workload
from transformer.config import Config, ParallelConfig, TrainingConfig
from transformer.errors import InputError
from transformer.planning.program import arrangement

D, F, V = 16, 32, 262
TINY = [
    *("--model.d-model", "16", "--model.num-heads", "2", "--model.d-ff", "32", "--model.vocabulary-size", f"{V}"),
    *("--model.num-encoder-layers", "1", "--model.num-decoder-layers", "1", "--model.dtype", "float32"),
    *("--training.batch-tokens", "512", "--training.pack-length", "32", "--training.steps", "50"),
]
ATTENTION, FEED_FORWARD, NORM = 4 * D * D, 2 * D * F + D + F, 2 * D
PARAMETERS = V * D + 3 * ATTENTION + 2 * FEED_FORWARD + 7 * NORM  # pre-norm: one more at the end of each stack


def plan(capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    assert main(["plan", "--json", *TINY, *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_sizes_and_flops_are_those_counted_by_hand(capsys: pytest.CaptureFixture[str], quick_compilation: None) -> None:
    made = plan(capsys, "--full-rows", "--training.accumulation-steps", "2")
    assert (made["devices"], made["strategy"], made["shards"]) == (1, "pmap", 1)
    assert made["parameters"] == PARAMETERS
    assert made["parameter_bytes"] == 4 * PARAMETERS
    assert made["optimizer_bytes"] == 8 * PARAMETERS + 2 * 4  # two moments, and two counts of steps
    assert made["workload"] == {"S": 32, "T": 32, "rows": 16, "padding": None, "per_epoch": None}
    products = 3 * ATTENTION + 2 * 2 * D * F + D * V  # multiply-adds of a source and a target token
    products += 3 * 2 * 32 * D  # scores and weighted sums over the 32 keys of a row
    assert made["flops_per_step"] == 3 * 2 * products * 16 * 32
    assert made["flops_per_token"] == pytest.approx(made["flops_per_step"] / (16 * 64))
    assert made["program_bytes"] > made["parameter_bytes"] + made["optimizer_bytes"] + made["temporary_bytes"]
    assert made["fits"]
    assert made["largest_batch_tokens"] > 512
    assert made["estimated_seconds"] is None
    assert made["collectives"] == {}


def test_padding_is_that_of_the_data_and_a_departure_from_the_recipe_is_a_warning(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, quick_compilation: None
) -> None:
    for side in ("en", "de"):
        (tmp_path / f"train.{side}").write_text("a b c d e f g\n" * 40, encoding="utf-8")
    files = ["--data.corpus", "files", "--data.train", str(tmp_path / "train.en"), str(tmp_path / "train.de")]
    files += ["--run-dir", str(tmp_path / "run")]
    made = plan(capsys, *files, "--parallel.strategy", "mesh")
    assert (made["strategy"], made["shards"]) == ("mesh data=1 fsdp=1 tensor=1", 1)
    assert made["optimizer_bytes"] == 8 * PARAMETERS + 2 * 4
    assert 0 < made["workload"]["padding"] < 1
    assert made["workload"]["per_epoch"] >= 1
    assert made["epochs"] == 50 / made["workload"]["per_epoch"]
    (warning,) = made["warnings"]
    assert "but the recipe has 2,048" in warning  # of the quickstart, which all other options change
    assert not (tmp_path / "run").exists()


def test_devices_of_several_hosts_form_a_mesh_as_in_training() -> None:
    one_host: list[Any] = [SimpleNamespace(process_index=0) for _ in range(8)]
    two_hosts: list[Any] = [SimpleNamespace(process_index=index // 4) for index in range(8)]
    assert str(arrangement(Config(), one_host)) == "pmap"
    assert str(arrangement(Config(), two_hosts)) == "mesh data=8 fsdp=1 tensor=1"
    with pytest.raises(InputError, match="trains in one process, but there are 2"):
        arrangement(Config(parallel=ParallelConfig("pmap")), two_hosts)


def test_a_batch_that_training_refuses_is_refused() -> None:
    with pytest.raises(InputError, match="A batch of 200 tokens is too small: 8 rows"):
        workload(Config(training=TrainingConfig(batch_tokens=200, pack_length=64)), 8, read=False)

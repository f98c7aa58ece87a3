"""Commands on a run whose newest checkpoint is damaged, also while the run is being trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_refused, call, contents, damage

from transformer import checkpoint_arrays
from transformer.inference.results import read_result
from transformer.manifest import write_manifest
from transformer.run_dir import hold_run

pytestmark = pytest.mark.usefixtures("quick_compilation")

AVERAGED = ("--average", "2")
BEST = ("--checkpoint", "best")


@pytest.fixture
def damaged(run: str) -> str:
    """A run with sound checkpoints of steps 5 and 10, and a damaged one of step 20, which was the best."""
    checkpoints = Path(run) / "checkpoints"
    shutil.copytree(checkpoints / "10", checkpoints / "5")
    for step, loss in (("5", 3.0), ("10", 2.0), ("20", 1.0)):
        (file,) = (checkpoints / step / "metrics").glob("metrics")
        file.write_text(json.dumps({"validation_loss": loss}))
        write_manifest(checkpoints / step)
    damage(checkpoints / "20")
    return run


def sentence(run: str, options: tuple[str, ...]) -> str:
    """What is said once on standard error."""
    used = "the checkpoint of step 10" if options == BEST else "the checkpoints of steps 5 and 10"
    return f"Using {used} of {run} because the checkpoint of step 20 cannot be read."


@pytest.mark.parametrize("options", [(), BEST, AVERAGED], ids=str)
def test_evaluate_and_translate_use_an_earlier_checkpoint(damaged, tmp_path, options):
    """The run averages two checkpoints, which is its default for the last one."""
    steps, output = [10] if options == BEST else [5, 10], str(tmp_path / "output")
    with hold_run(Path(damaged)):  # as while it is being trained
        before = contents(Path(damaged))
        evaluated = call("evaluate", damaged, *options, "--json", "--output", output, "--metrics", "chrf")
        translated = call("translate", damaged, *options, stdin="red house\n")
        assert contents(Path(damaged)) == before
    for result in (evaluated, translated):
        assert result.status == 0
        assert result.err.count("step") == 2
        assert sentence(damaged, options) in result.err.splitlines()
    assert json.loads(evaluated.out)["evaluation"]["checkpoints"] == steps
    assert read_result(output).config["checkpoints"] == steps
    by_step = ("--checkpoint", "10", "--average", str(len(steps)))
    assert call("translate", damaged, *by_step, stdin="red house\n").out == translated.out


@pytest.mark.parametrize("options", ["last", "best"])
def test_compare_uses_an_earlier_checkpoint(damaged, options):
    before = contents(Path(damaged))
    result = call("compare", f"{damaged}@10", f"{damaged}@{options}", "--metrics", "chrf", "--json")
    assert result.status == 0
    assert sentence(damaged, BEST if options == "best" else ()) in result.err.splitlines()
    caveats = json.loads(result.out)["caveats"]
    assert any(caveat.startswith("checkpoints is [10]") for caveat in caveats) == (options == "last")
    assert contents(Path(damaged)) == before
    assert_refused(call("compare", damaged, f"{damaged}@20"), "The checkpoint of step 20 .* is damaged")


def test_a_member_of_an_ensemble_is_an_earlier_checkpoint(damaged):
    result = call("evaluate", damaged, "--checkpoint", "10", "--ensemble", f"{damaged}@best", "--json")
    assert result.status == 0
    assert sentence(damaged, BEST) in result.err.splitlines()
    assert json.loads(result.out)["evaluation"]["ensemble"] == [[damaged, [10]]]


def test_evaluate_chooses_anew_if_training_deletes_the_checkpoint(run, monkeypatch):
    def read(manager: Any, step: int, read: Any = checkpoint_arrays.read) -> Any:
        shutil.rmtree(Path(run) / "checkpoints" / "10", ignore_errors=True)
        return read(manager, step)

    monkeypatch.setattr(checkpoint_arrays, "read", read)
    result = call("evaluate", run, "--json", "--metrics", "chrf")
    assert result.status == 0
    assert "cannot be read" not in result.err
    assert json.loads(result.out)["evaluation"]["checkpoints"] == [20]

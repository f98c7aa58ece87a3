"""The launchers in `launch/`: their syntax, and that their commands have the options that the command line has."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from transformer.cli import process
from transformer.cli.train import parse_config

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def test_the_launchers():
    assert [file.name for file in sorted(LAUNCH.iterdir())] == [
        "cloud_tpu.sh",
        "eight_gpus.sh",
        "jobset.yaml",
        "slurm.sh",
    ]
    for file in LAUNCH.iterdir():
        first = [line for line in file.read_text("utf-8").splitlines() if line.startswith("# ")][:5]
        assert any(line.startswith("# Change: ") for line in first), file
        assert any(line.startswith("# Not run: ") for line in first), file


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_a_script_is_bash_that_trains(script: Path):
    subprocess.run(["bash", "-n", script], check=True)
    for command in commands(script):
        others, (coordinator, processes, number) = parsed(command)
        assert (coordinator is None) == (processes is None) == (number is None)
        assert others.run_dir == "runs/wmt14_big"


def test_slurm_starts_one_task_on_each_machine():
    settings = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", (LAUNCH / "slurm.sh").read_text("utf-8"), re.MULTILINE))
    ((config, joining),) = map(parsed, commands(LAUNCH / "slurm.sh"))
    assert joining == (None, None, None)
    assert settings["ntasks-per-node"] == "1"
    assert int(settings["gpus-per-node"]) % config.parallel.fsdp == 0


def test_eight_processes_on_one_machine():
    (alone, _), (config, (coordinator, processes, _)) = map(parsed, commands(LAUNCH / "eight_gpus.sh"))
    assert alone == config
    assert (coordinator, processes, config.parallel.fsdp) == ("127.0.0.1:8476", 8, 8)


def test_the_pods_of_the_jobset_join_each_other():
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text("utf-8"))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    name = jobset["metadata"]["name"]
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    program, *arguments = container["command"]
    assert program == "transformer"
    config, (coordinator, processes, number) = parsed(
        [part.replace("$(JOB_COMPLETION_INDEX)", "1") for part in arguments]
    )
    (port,) = container["ports"]
    assert coordinator == f"{name}-{job['name']}-0-0.{name}:{port['containerPort']}"
    assert processes == job["replicas"] * spec["completions"] == job["replicas"] * spec["parallelism"]
    assert (spec["completionMode"], number) == ("Indexed", 1)
    assert container["resources"]["limits"]["nvidia.com/gpu"] % config.parallel.fsdp == 0
    mounts, volumes = container["volumeMounts"], spec["template"]["spec"]["volumes"]
    assert [mount["name"] for mount in mounts] == [volume["name"] for volume in volumes]
    assert Path(config.run_dir).is_relative_to(mounts[0]["mountPath"])


def commands(script: Path) -> list[list[str]]:
    """The arguments of each `transformer` in a script, with its options written out and a number for each variable."""
    text = script.read_text("utf-8").replace("\\\n", " ")
    options = re.findall(r"^options=\((.*)\)$", text, re.MULTILINE)
    text = re.sub(r"^#.*", "", text, flags=re.MULTILINE).replace('"${options[@]}"', *options or [""])
    found = re.findall(r"\btransformer (train [^\n&]*?)\"?(?: &)?$", text, re.MULTILINE)
    assert found
    return [shlex.split(re.sub(r'"?\$\w+"?', "1", command)) for command in found]


def parsed(arguments: list[str]):
    """The config of a command, and what it says of other processes."""
    arguments, devices = process.take_devices(arguments)
    assert devices is None
    (command, *arguments), joining = process.take_processes(arguments)
    assert command == "train"
    return parse_config(arguments), joining

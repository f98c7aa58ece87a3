"""Names of hardware, and what compiling for it needs."""

from importlib import metadata
from types import SimpleNamespace

import pytest

from transformer.cli import main
from transformer.errors import InputError
from transformer.planning.targets import GIBIBYTE, Target, device_memory, devices_of, parse_target


def test_a_name_means_hardware() -> None:
    assert parse_target("local") == Target("local", "local")
    assert parse_target("h100") == Target("h100", "gpu", "1x1x1")
    assert parse_target("h100x8") == Target("h100x8", "gpu", "1x1x8")
    assert parse_target("v5e:4x8") == Target("v5e:4x8", "tpu", "v5e:4x8")
    for name in ("", "h100x0", "a100", "v5e", "v5e:4x", "h100 x8"):
        with pytest.raises(InputError, match="--target must be local, h100, h100xN"):
            parse_target(name)


def test_memory_of_devices_that_are_absent_is_known() -> None:
    assert device_memory(parse_target("h100"), None) == pytest.approx(80e9, rel=0.1)
    tpu = parse_target("v5e:2x2")
    assert device_memory(tpu, SimpleNamespace(device_kind="TPU v5 lite", platform="tpu")) == 16 * GIBIBYTE
    assert device_memory(tpu, SimpleNamespace(device_kind="TPU v99", platform="tpu")) is None


def test_a_cpu_has_the_memory_of_its_machine() -> None:
    local = parse_target("local")
    device = devices_of(local)[0]
    if device.platform != "cpu":
        pytest.skip("jax computes on an accelerator")
    found = device_memory(local, device)
    assert found is not None
    assert found > GIBIBYTE / 2


@pytest.mark.parametrize(("target", "plugin", "extra"), [("h100x8", "cuda", "cuda12"), ("v5e:2x2", "libtpu", "tpu")])
def test_a_missing_plugin_is_said_in_a_sentence(
    target: str, plugin: str, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if any(plugin in str(package.name) for package in metadata.distributions()):
        pytest.skip(f"{plugin} is installed")
    assert main(["plan", "--target", target]) == 2
    assert capsys.readouterr() == (
        "",
        f"error: Compiling for {target} needs jax's plugin for it, which is not installed. Install it with: "
        f"pip install 'transformer-jax[{extra}]'\n",
    )

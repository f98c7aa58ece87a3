import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from samples import Samples, make_samples


@pytest.fixture(autouse=True)
def no_other_checks() -> Iterator[None]:
    """Turns off the checks of types that tests have and users have not, so that values of wrong types get in."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    pytest.importorskip("sentencepiece")
    return make_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def run(samples: Samples, tmp_path: Path) -> Path:
    """A copy of a run with two checkpoints and an evaluation."""
    return Path(shutil.copytree(samples.run, tmp_path / "run"))


@pytest.fixture(scope="session")
def hf_settings(samples: Samples) -> dict[str, Any]:
    """The `config.json` of a model of Hugging Face."""
    return json.loads((samples.models[0] / "config.json").read_text())

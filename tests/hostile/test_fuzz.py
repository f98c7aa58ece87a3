"""300 malformed inputs, chosen and shrunk by Hypothesis; `fuzz.py` runs any number of them."""

from random import Random

import pytest
from fuzz import KINDS, run_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import Samples

CASES = {"corpus": 60, "tokenizer": 60, "config": 60, "run": 60, "model": 20, "command": 40}


@pytest.mark.parametrize("kind", KINDS)
def test_malformed_input(kind: str, samples: Samples, tmp_path_factory: pytest.TempPathFactory):
    ended = set()

    @settings(
        max_examples=CASES[kind],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.randoms(use_true_random=False))
    def run(random: Random) -> None:
        ended.add(run_case(kind, random, tmp_path_factory.mktemp("case"), samples))

    run()
    assert ended == {"result", "refused"}

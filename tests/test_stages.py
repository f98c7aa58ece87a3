import threading

import pytest

from transformer import stages
from transformer.stages import stage


def test_a_long_stage_says_what_it_does_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages, "LONG", 0.01)
    said, heard = [], threading.Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    with stage("reading", say):
        assert heard.wait(10)
    assert said == ["reading ..."]


def test_a_short_stage_says_nothing():
    with stage("reading", pytest.fail):
        pass

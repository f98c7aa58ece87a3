import threading

import pytest

from transformer import stages
from transformer.stages import counted, duration, stage


class Listener:
    """Collects announcements, and waits for one of them."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._heard = threading.Condition()

    def __call__(self, text: str) -> None:
        with self._heard:
            self.said.append(text)
            self._heard.notify_all()

    def wait_for(self, text: str) -> bool:
        with self._heard:
            return self._heard.wait_for(lambda: text in self.said, timeout=10)


def test_a_long_stage_says_what_it_does_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages, "LONG", 0.01)
    monkeypatch.setattr(stages, "REPEAT", 0.01)
    say = Listener()
    with stage("reading", say):
        assert say.wait_for("reading ...")
        threading.Event().wait(0.1)
    assert say.said == ["reading ..."]


def test_a_short_stage_says_nothing():
    with stage("reading", pytest.fail):
        assert [*counted("abc", 3, "lines")] == ["a", "b", "c"]


def test_a_long_stage_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages, "LONG", 0.01)
    monkeypatch.setattr(stages, "REPEAT", 0.01)
    say = Listener()
    with stage("reading", say):
        for number in counted(range(3500), 3500, "lines"):
            if number == 2500:
                assert say.wait_for("reading: 2,000 of 3,500 lines ...")
        assert say.wait_for("reading: 3,500 of 3,500 lines ...")
        for batch in counted(range(3), 2500, "texts", size=1000):
            if batch == 2:
                assert say.wait_for("reading: 2,000 of 2,500 texts ...")
        for _ in counted(iter("abc"), None, "sentences"):
            pass
        assert say.wait_for("reading: 3 sentences ...")
    assert len(say.said) == len(set(say.said))


def test_items_are_counted_for_the_stage_that_is_running(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages, "LONG", 0.01)
    assert [*counted("ab", 2, "lines")] == ["a", "b"]  # outside every stage
    inner, outer = Listener(), Listener()
    with stage("training", outer):
        with stage("validating", inner):
            assert [*counted("ab", 2, "lines")] == ["a", "b"]
            assert inner.wait_for("validating: 2 of 2 lines ...")
        assert outer.wait_for("training ...")
    assert len(inner.said) <= 2


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, "0:00"), (9.6, "0:10"), (252.0, "4:12"), (3599.7, "1:00:00"), (360_000.0, "100:00:00")],
)
def test_duration(seconds: float, expected: str):
    assert duration(seconds) == expected

import sys

import pytest

from transformer.analysis.figures import line_style
from transformer.errors import InputError


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "transformer.analysis.figures")
    with pytest.raises(InputError, match=r"Pictures need matplotlib: pip install 'transformer-jax\[plot\]'"):
        import transformer.analysis.figures  # noqa: F401


def test_no_two_lines_look_the_same():
    assert len({tuple(line_style(number).values()) for number in range(24)}) == 24

import io
import sys

import pytest
from matplotlib.figure import Figure

from transformer.analysis.figures import line_style, missing_glyphs, to_bytes
from transformer.errors import InputError


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "transformer.analysis.figures")
    with pytest.raises(
        InputError, match=r"Pictures need matplotlib\. Install it with pip install 'transformer-jax\[plot\]'"
    ):
        import transformer.analysis.figures  # noqa: F401


def test_characters_without_a_glyph_are_listed_and_do_not_warn():
    def draw() -> Figure:
        figure = Figure((1, 1))
        figure.text(0, 0, "你好")
        return figure

    assert missing_glyphs("ein schönes → مرحبا ␣ 你好, 你\u200d\n") == "你好"
    with pytest.warns(UserWarning, match="missing from font"):
        draw().savefig(io.BytesIO())
    assert to_bytes(draw, "png").startswith(b"\x89PNG")


def test_no_two_lines_look_the_same():
    assert len({tuple(line_style(number).values()) for number in range(24)}) == 24

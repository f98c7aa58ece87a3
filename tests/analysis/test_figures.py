import re
import sys

import pytest

from transformer.analysis.attention import Attention
from transformer.analysis.figures import picture
from transformer.analysis.page import Start
from transformer.errors import InputError

TOKENS = ["The", "$x$", "law", "<s>", "_^{\\", "schöner"]


@pytest.fixture(scope="module")
def found(make_attention) -> Attention:
    return make_attention(TOKENS, 2, 3)


@pytest.mark.parametrize(
    "shown",
    [Start("cross"), Start("encoder", layer=1, head=2), Start("rollout"), Start("encoder", word="law", joined=True)],
)
def test_the_same_bytes_each_time(found, shown):
    for suffix, begins in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        data = picture(found, shown, suffix)
        assert data.startswith(begins)
        assert data == picture(found, shown, suffix)
        assert not re.search(rb"<dc:date>|Software", data)


def test_what_is_not_there(found):
    for shown, message in (
        (Start("encoder", layer=2), "There is no layer 2"),
        (Start("encoder", head=3), "There is no head 3"),
        (Start("encoder", word="cat"), "The word cat is not among"),
    ):
        with pytest.raises(InputError, match=message):
            picture(found, shown, "png")


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "transformer.analysis.figures")
    with pytest.raises(InputError, match=r"Pictures need matplotlib: pip install 'transformer-jax\[plot\]'"):
        import transformer.analysis.figures  # noqa: F401

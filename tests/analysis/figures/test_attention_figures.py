import re
from functools import partial

import pytest

from transformer.analysis.attention import Attention
from transformer.analysis.figures import to_bytes
from transformer.analysis.figures.attention import draw
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
        data = to_bytes(partial(draw, found, shown), suffix)
        assert data.startswith(begins)
        assert data == to_bytes(partial(draw, found, shown), suffix)
        assert not re.search(rb"<dc:date>|Software", data)


def test_what_is_not_there(found):
    for shown, message in (
        (Start("encoder", layer=2), "There is no layer 2"),
        (Start("encoder", head=3), "There is no head 3"),
        (Start("encoder", word="cat"), "The word cat is not among"),
    ):
        with pytest.raises(InputError, match=message):
            draw(found, shown)

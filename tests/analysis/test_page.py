import base64
import json
import re

import numpy as np
import pytest

from transformer.analysis.attention import KINDS
from transformer.analysis.page import Start, page
from transformer.errors import InputError


def data_of(html: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_the_page_has_every_weight(view):
    data = data_of(page(view, Start()))
    assert [kind["name"] for kind in data["kinds"]] == [*KINDS]
    for kind in data["kinds"]:
        weights = view.weights[kind["name"]]
        assert (kind["layers"], kind["heads"]) == weights.shape[:2]
        assert data["sides"][kind["queries"]]["tokens"] == view.queries(kind["name"]).tokens
        assert data["sides"][kind["keys"]]["tokens"] == view.keys(kind["name"]).tokens
        kept = np.frombuffer(base64.b64decode(kind["weights"]), np.uint8).reshape(weights.shape) / 255
        np.testing.assert_allclose(kept, weights, atol=0.5 / 255 + 1e-6)


def test_what_is_shown_first(view):
    assert data_of(page(view, Start()))["start"] == {
        "kind": "cross",
        "layer": 0,
        "heads": [0, 1, 2, 3],
        "joined": False,
        "query": None,
    }
    start = data_of(page(view, Start("encoder", head=2, joined=True, word="law")))["start"]
    assert start == {"kind": "encoder", "layer": 1, "heads": [2], "joined": True, "query": 1}
    with pytest.raises(InputError, match="Kind cross has no head 4"):
        page(view, Start(head=4))
    with pytest.raises(InputError, match="cat is not one of the query tokens"):
        page(view, Start(word="cat"))


def test_text_is_never_markup(make_attention):
    hostile = ["</script><script>alert(1)</script>", '<img src=x onerror="alert(1)">', "<!--", "&amp;", "'\"", "\u2028"]
    html = page(make_attention(hostile, 1, 2), Start())
    assert not any(token in html for token in hostile[:3])
    assert html.count("<script") == html.count("</script>") == 2
    assert data_of(html)["sides"]["source"]["tokens"] == hostile


def test_the_page_needs_nothing_else_and_is_small(make_attention):
    html = page(make_attention([f"token{number}" for number in range(40)], 6, 8), Start())
    assert len(html.encode()) < 400_000  # the target is 1 MB
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|src=|href=", html)

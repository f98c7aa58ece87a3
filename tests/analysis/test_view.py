from html import unescape

import pytest

from transformer.analysis.page import Start, page
from transformer.errors import InputError


def test_a_notebook_shows_the_page_in_a_frame(view):
    html = view._repr_html_()
    assert html.startswith('<iframe title="Attention" sandbox="allow-scripts" srcdoc="')
    content = html.split('srcdoc="')[1].split('"')[0]
    assert "<" not in content
    assert unescape(content) == page(view, Start())


def test_save_writes_what_the_name_says(view, tmp_path):
    view.save(tmp_path / "view.html", kind="encoder", word="law", joined=True)
    assert (tmp_path / "view.html").read_text() == page(view, Start("encoder", word="law", joined=True))
    view.save(tmp_path / "view.png")
    view.save(str(tmp_path / "view.svg"), kind="encoder", layer=0, head=1)
    assert (tmp_path / "view.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "view.svg").read_bytes().endswith(b"</svg>\n")
    before = sorted(tmp_path.iterdir())
    for name, options, message in (
        ("view.pdf", {}, r"Cannot write attention weights to .*view\.pdf\. The name must end in \.html, \.png, \.svg"),
        ("view", {}, "must end in"),
        ("more.html", {"layer": 7}, "Kind cross has no layer 7, only layer 0"),
        ("more.png", {"kind": "encoder", "head": 4}, "Kind encoder has no head 4, only heads 0 to 3"),
    ):
        with pytest.raises(InputError, match=message):
            view.save(tmp_path / name, **options)
    assert sorted(tmp_path.iterdir()) == before

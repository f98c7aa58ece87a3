"""Attention weights that display themselves in notebooks, pages and pictures."""

from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from transformer.analysis.attention import Attention, attention
from transformer.analysis.page import Start, page
from transformer.config import SearchConfig
from transformer.errors import InputError
from transformer.files import write_whole
from transformer.inference.translator import Translator

SUFFIXES = (".html", ".png", ".svg")


class View(Attention):
    """Attention weights that a notebook cell displays as an interactive page."""

    def _repr_html_(self) -> str:
        """The page in an iframe, isolated from the notebook's styles and scripts."""
        content = escape(page(self, Start()))
        return (
            f'<iframe title="Attention" sandbox="allow-scripts" srcdoc="{content}" '
            'style="width: 100%; height: 46rem; border: 0"></iframe>'
        )

    def save(self, file: str | Path, **options: Any) -> None:
        """Writes an interactive page (.html), or a picture for papers (.png, .svg).

        Characters that the picture's font lacks, such as Chinese ones, become boxes (see `figures.missing_glyphs`). The
        page shows them.

        Args:
            file: path of the file; the suffix determines the format.
            options: the fields of `page.Start`. For a page they choose what it shows first. For a picture they choose
                what it shows: heat maps of one kind's layers and heads, or with `word` what this word attends to.

        Raises:
            InputError: the suffix is another one, there is no such layer, head or word, or a picture needs matplotlib
                and it is not installed.
        """
        check_suffix(file)
        start, path = Start(**options), Path(file)
        if path.suffix == ".html":
            data = page(self, start).encode()
        else:
            from transformer.analysis import figures  # imports matplotlib, which only pictures need
            from transformer.analysis.figures.attention import draw

            data = figures.to_bytes(partial(draw, self, start), path.suffix.removeprefix("."))
        write_whole(path, data)


def view(run: Translator, source: str, target: str | None = None, search: SearchConfig | None = None) -> View:
    """Computes the attention weights of a sentence pair, for display.

    It takes the arguments of `analysis.attention.attention` and raises the same errors.
    """
    return View(**vars(attention(run, source, target, search)))


def check_suffix(file: str | Path) -> None:
    """Raises InputError unless a file is named like a page or a picture."""
    if Path(file).suffix not in SUFFIXES:
        raise InputError(f"Cannot write attention weights to {file}. The name must end in {', '.join(SUFFIXES)}.")

"""An attention that shows itself: in a notebook, as a page, as a picture."""

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
    """The attention of a pair of sentences; the last line of a notebook cell shows it."""

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither its styles nor its program meet the notebook's."""
        content = escape(page(self, Start()))
        return (
            f'<iframe title="Attention" sandbox="allow-scripts" srcdoc="{content}" '
            'style="width: 100%; height: 46rem; border: 0"></iframe>'
        )

    def save(self, file: str | Path, **options: Any) -> None:
        """Writes the page (.html), or a picture for papers (.png, .svg).

        In a picture boxes stand for what `figures.missing_glyphs` finds, such as Chinese letters; the page has them.

        Args:
            file: where to; its suffix says what.
            options: the fields of `page.Start`. They say what a page shows first, and what a picture shows: heat maps
                of the kind's layers and heads, all or the one named, or with `word` the lines of that word.

        Raises: InputError if the suffix is none of these, there is no such layer, head or word, or a picture is asked
            for and matplotlib is not installed.
        """
        check_suffix(file)
        start, path = Start(**options), Path(file)
        if path.suffix == ".html":
            data = page(self, start).encode()
        else:
            from transformer.analysis import figures  # matplotlib, which only pictures need
            from transformer.analysis.figures.attention import draw

            data = figures.to_bytes(partial(draw, self, start), path.suffix.removeprefix("."))
        write_whole(path, data)


def view(run: Translator, source: str, target: str | None = None, search: SearchConfig | None = None) -> View:
    """The attention of a pair of sentences, as one that shows itself; see `analysis.attention.attention`."""
    return View(**vars(attention(run, source, target, search)))


def check_suffix(file: str | Path) -> None:
    """Raises InputError unless the name of a file says that it is a page or a picture."""
    if Path(file).suffix not in SUFFIXES:
        raise InputError(f"The name of the output must end in {', '.join(SUFFIXES)}, but it is {file}.")

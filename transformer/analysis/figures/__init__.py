"""What all pictures share: matplotlib, its settings, and colours that the colour-blind tell apart."""

import io
import warnings
from collections.abc import Callable
from typing import Any

from transformer.errors import InputError

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.font_manager import findfont, get_font
except ImportError as error:
    raise InputError("Pictures need matplotlib: pip install 'transformer-jax[plot]'.") from error

# Okabe and Ito (2008), which the colour-blind can tell apart; what goes beyond them repeats them with other dashes.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999000")
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)))
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # which comes with matplotlib
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a sentence is a dollar sign
    "svg.hashsalt": "transformer",  # else the names inside an SVG are random
    "savefig.dpi": 200,
}
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "png": {"Software": None},
}  # no dates, so that version control sees what changed


def line_style(number: int) -> dict[str, Any]:
    """Colour and dash of the line of this number, counted from 0."""
    return {"color": PALETTE[number % len(PALETTE)], "linestyle": DASHES[number // len(PALETTE) % len(DASHES)]}


def missing_glyphs(text: str) -> str:
    """The letters of a text that the pictures' font does not have, such as Chinese ones: boxes stand for them."""
    font = get_font(findfont(STYLE["font.family"]))
    return "".join(
        letter for letter in dict.fromkeys(text) if letter.isprintable() and not font.get_char_index(ord(letter))
    )


def to_bytes(draw: Callable[[], Figure], suffix: str) -> bytes:
    """A figure as PNG or SVG, in the style of all.

    Args:
        draw: makes the figure.
        suffix: `png` or `svg`.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # one a letter; see `missing_glyphs`
        data = io.BytesIO()
        draw().savefig(data, format=suffix, metadata=METADATA[suffix])
    return data.getvalue()

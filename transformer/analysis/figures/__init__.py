"""Settings that all pictures share, and their conversion to files."""

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
    raise InputError("Pictures need matplotlib. Install it with pip install 'transformer-jax[plot]'.") from error

# The colours of Okabe and Ito (2008), which colour-blind readers can tell apart. Further lines repeat them, dashed.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999000")
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)))
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "text.parse_math": False,  # keeps dollar signs in sentences
    "svg.hashsalt": "transformer",  # makes the ids inside an SVG reproducible
    "savefig.dpi": 200,
}
# Without dates, equal pictures are equal files.
METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {"Software": None}}


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of the line with this number, counted from 0."""
    return {"color": PALETTE[number % len(PALETTE)], "linestyle": DASHES[number // len(PALETTE) % len(DASHES)]}


def missing_glyphs(text: str) -> str:
    """The characters of a text that the pictures' font lacks, such as Chinese ones.

    Pictures show boxes instead of them.
    """
    font = get_font(findfont(STYLE["font.family"]))
    return "".join(
        letter for letter in dict.fromkeys(text) if letter.isprintable() and not font.get_char_index(ord(letter))
    )


def to_bytes(draw: Callable[[], Figure], suffix: str) -> bytes:
    """Draws a figure in the common style, as the bytes of a PNG or SVG file.

    Args:
        draw: makes the figure.
        suffix: `png` or `svg`.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `missing_glyphs` is one warning for all
        data = io.BytesIO()
        draw().savefig(data, format=suffix, metadata=METADATA[suffix])
    return data.getvalue()

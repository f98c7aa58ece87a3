"""Settings for decoding that depend on the backend, and those for GPUs and TPUs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax import lax

from transformer.inference.generation import Schedule, plain
from transformer.inference.search import TopK

NARROW = 64  # tokens, including the end token; nearly all sentences fit


class Backend(NamedTuple):
    """How translations are computed. No field changes a translation.

    Attributes:
        batch_tokens: Value of `search.batch_tokens` if that is None.
        at_once: Number of batches to translate at the same time.
        widths: (longest) -> the padded widths of sources in ascending order, of which the last equals `longest`.
        row_divisor: A batch of only a few sentences has its number of rows divided by this, once or several times. None
            pads every batch of a width to the same number of rows.
        schedule: (width, rows, max_length) -> the schedule of the search over a batch.
        top_k: `lax.top_k`, or a faster function for rows as long as the vocabulary.
    """

    batch_tokens: int
    at_once: int
    widths: Callable[[int], Sequence[int]]
    row_divisor: int | None
    schedule: Callable[[int, int, int], Schedule]
    top_k: TopK


def two_widths(longest: int) -> Sequence[int]:
    """The two padded widths of an accelerator, for most sentences and for the longest."""
    return sorted({min(NARROW, longest), longest})


# On an accelerator, compiling is slow and empty rows are cheap, so any input needs at most two programs. With a beam of
# 4, 65,536 tokens are 256 rows of 64 tokens or 16 rows of 1,024. Their caches take 1.4 and 0.8 GB in the base model.
ACCELERATOR = Backend(
    batch_tokens=65_536,
    at_once=1,
    widths=two_widths,
    row_divisor=None,
    schedule=lambda width, rows, max_length: plain,
    top_k=lax.top_k,
)

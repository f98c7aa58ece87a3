"""How a backend decodes: the shapes of batches and the schedule of a search. `ACCELERATOR` is for GPUs and TPUs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax import lax

from transformer.inference.generation import Schedule, plain
from transformer.inference.search import TopK

NARROW = 64  # tokens: nearly every sentence is no longer


class Backend(NamedTuple):
    """How translations are computed; none of it changes a translation.

    batch_tokens: `search.batch_tokens` where that is None.
    at_once: batches that are translated at the same time.
    widths: (longest) -> the padded widths of sources, ascending, the last as wide as the longest source.
    row_divisor: a batch of few sentences has this fraction of the rows, or of its square, and so on. None: it is padded
        to all of them.
    schedule: (width, rows, max_length) -> how a search over a batch runs.
    top_k: for rows as long as the vocabulary.
    """

    batch_tokens: int
    at_once: int
    widths: Callable[[int], Sequence[int]]
    row_divisor: int | None
    schedule: Callable[[int, int, int], Schedule]
    top_k: TopK


def two_widths(longest: int) -> Sequence[int]:
    return sorted({min(NARROW, longest), longest})


# Compiling is slow and empty rows are cheap: two programs, whatever is translated. With a beam of 4, 65,536 tokens are
# 256 rows of 64 or 16 rows of 1,024; their caches take 1.4 and 0.8 GB in the base model.
ACCELERATOR = Backend(
    batch_tokens=65_536,
    at_once=1,
    widths=two_widths,
    row_divisor=None,
    schedule=lambda width, rows, max_length: plain,
    top_k=lax.top_k,
)

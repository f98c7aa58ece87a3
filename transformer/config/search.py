"""Settings of the search for a translation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from transformer.config.bounds import Bound, Count, Natural, NotNegative, Positive, Seed, at_least, check
from transformer.errors import require


@dataclass(frozen=True)
class SearchConfig:
    """Beam search or sampling of translations (section 6.1)."""

    beam_size: Count = 4
    """Number of hypotheses kept per sentence. 1 is greedy search."""
    length_penalty: NotNegative = 0.6
    """Exponent alpha of the length penalty. 0 disables it."""
    length_penalty_form: Literal["wu", "power"] = "wu"
    """Divisor of the log-probability of a translation of L tokens. `wu` is
    ((5 + L) / 6) ** alpha, as in the paper (Wu et al. 2016). `power` is L
    ** alpha."""
    extra_length: Count = 50
    """Maximum number of tokens by which a translation may be longer than its
    source."""
    min_length: Natural = 0
    """Minimum translation length in tokens, including the end token. Capped
    at the maximum length."""
    max_length: Count | None = None
    """Maximum translation length in tokens, including the end token. It
    applies in addition to `extra_length` and to the number of positions
    of the model. None sets no further limit."""
    no_repeat_ngram: Natural = 0
    """Forbid repeating any n-gram of this length; 0 disables the rule."""
    repetition_penalty: Annotated[float, at_least(1)] = 1.0
    """Factor on the log-probability of tokens that the translation already
    contains. 1 disables it."""
    forbidden: tuple[str, ...] = ()
    """Words that must not be generated, whether or not they follow a space.
    Each must be a single token of the vocabulary. Several smaller tokens
    may still spell the same word."""
    prefix: str = ""
    """Text that every translation begins with. A source longer than the
    model's positions is then refused, because the prefix would begin each
    of its chunks."""
    num_best: Count = 1
    """Number of translations to return per sentence: the best ones found by
    the search, or that many samples. May exceed the beam size. A text
    found in several tokenizations is returned once, so there may be
    fewer."""
    sample: bool = False
    """Draw translations at random, instead of searching for the most
    probable one."""
    temperature: Positive = 1.0
    """Sampling temperature; values below 1 favour likely tokens."""
    top_k: Natural = 0
    """Draw each token from this many most probable tokens. 0 draws from all."""
    top_p: Annotated[float, Bound("must be in (0, 1]", lambda share: 0 < share <= 1)] = 1.0
    """Nucleus sampling: draw from the smallest set of tokens whose total
    probability reaches this value."""
    seed: Seed = 0
    """Seed of sampling. Each sample is a function of the seed, the number of
    the sentence and the number of the sample."""
    long_input: Literal["refuse", "split"] = "split"
    """What to do with a source longer than the model's positions. `refuse`
    stops with an error. `split` translates it in chunks, split at
    sentence ends or else between words."""
    batch_tokens: Count | None = None
    """Size of a batch, in padded source tokens times beam size (or number of
    samples). None is 2,560 on a CPU, and 65,536 elsewhere."""

    def __post_init__(self) -> None:
        check(self, "search")
        require(
            self.max_length is None or self.min_length <= self.max_length,
            f"search.min_length ({self.min_length}) must not exceed search.max_length ({self.max_length}).",
        )
        require(
            self.sample or (self.temperature, self.top_k, self.top_p) == (1.0, 0, 1.0),
            "search.temperature, search.top_k and search.top_p only affect sampling, so they need search.sample.",
        )

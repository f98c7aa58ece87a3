"""The search for a translation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from transformer.config.bounds import Bound, Count, Natural, NotNegative, Positive, at_least, check
from transformer.errors import require


@dataclass(frozen=True)
class SearchConfig:
    """How a translation is searched for (section 6.1)."""

    beam_size: Count = 4
    """Hypotheses kept per sentence; 1 is greedy."""
    length_penalty: NotNegative = 0.6
    """Exponent alpha of the length penalty; 0 is none."""
    length_penalty_form: Literal["wu", "power"] = "wu"
    """`wu`: ((5 + L) / 6) ** alpha (Wu et al. 2016, the paper's); `power`: L ** alpha."""
    extra_length: Count = 50
    """A translation may have this many tokens more than its source."""
    min_length: Natural = 0
    """Minimum translation length in tokens, including the end token. Capped at the maximum length."""
    max_length: Count | None = None
    """Maximum translation length in tokens, including the end token, if extra_length and the model's positions allow
    more."""
    no_repeat_ngram: Natural = 0
    """Forbid repeating any n-gram of this length; 0 disables the rule."""
    repetition_penalty: Annotated[float, at_least(1)] = 1.0
    """Factor on the log-probability of tokens that the translation has already; 1 is none."""
    forbidden: tuple[str, ...] = ()
    """Tokens of the vocabulary that are never generated, after a space or without one. A word that is one token may
    still be spelt with several smaller ones."""
    prefix: str = ""
    """Text that every translation begins with. A source longer than the model's positions is then refused: the prefix
    would begin each of its segments."""
    num_best: Count = 1
    """Number of translations to return per sentence: the best ones found by the search, or that many samples. May
    exceed the beam size. A text found in several tokenizations is returned once, so there may be fewer."""
    sample: bool = False
    """Draw translations at random, instead of searching for the most probable."""
    temperature: Positive = 1.0
    """Sampling temperature; values below 1 favour likely tokens."""
    top_k: Natural = 0
    """Draw each token from this many most probable ones; 0 is all."""
    top_p: Annotated[float, Bound("must be in (0, 1]", lambda share: 0 < share <= 1)] = 1.0
    """Nucleus sampling: draw from the smallest set of tokens whose total probability reaches this value."""
    seed: Natural = 0
    """Seed of the sampling. A sample is a function of the seed, the sentence's number and the sample's."""
    long_input: Literal["refuse", "split"] = "split"
    """What to do with a source longer than the model's positions: stop, or translate it in segments, cut at sentence
    ends, else between words."""
    batch_tokens: Count | None = None
    """Padded source tokens times beam size (or samples) in one batch; None is 2,560 on a CPU, else 65,536."""

    def __post_init__(self) -> None:
        check(self, "search")
        require(
            self.max_length is None or self.min_length <= self.max_length,
            f"search.min_length ({self.min_length}) must not exceed search.max_length ({self.max_length}).",
        )
        require(
            self.sample or (self.temperature, self.top_k, self.top_p) == (1.0, 0, 1.0),
            "search.temperature, search.top_k and search.top_p change how translations are drawn: they need "
            "search.sample.",
        )

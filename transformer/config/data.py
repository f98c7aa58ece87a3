"""Settings of the training text and of the tokenizer."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from transformer.config.bounds import Natural, at_least, check
from transformer.errors import require

Normalization = Literal["nfc", "none"]
_PAIRS = r"\.(tsv|jsonl?|parquet)(\.(gz|xz|zst))?$"
"""Suffixes of files that hold both sides of each pair."""


@dataclass(frozen=True)
class DataConfig:
    """Sources of the sentence pairs, and which pairs are kept.

    A split of local data is two text files (source and target, one sentence per line) or one file of pairs (TSV, JSONL
    or parquet). Each may be compressed (.gz, .xz or .zst). If one of two files is a file of pairs, it provides its
    source side in the first position and its target side in the second. A split of a Hugging Face dataset is given by
    its name. One JSONL or parquet file can also contain all splits, with a key that names the split of each pair.
    """

    corpus: str = "files"
    """`files` for local files; the path of one JSONL or parquet file that
    contains all splits; or the name of a Hugging Face dataset, such as
    `bentrevett/multi30k`. `package:quickstart.jsonl.xz` is a synthetic
    English-German corpus that comes with this package."""
    corpus_config: str | None = None
    """Configuration of the Hugging Face dataset, if it has several (such as
    `de-en` of wmt14)."""
    source_language: str = "en"
    """Language code of the source, which is also its key or column in JSONL,
    parquet and Hugging Face datasets."""
    target_language: str = "de"
    """Language code of the target, which is also its key or column in JSONL,
    parquet and Hugging Face datasets."""
    train: tuple[str, ...] = ()
    """Training pairs: two files, one file, or the name of a split. If one
    file contains all splits and none is named, they are `train`,
    `validation` and `test`. To mix several corpora, give source and
    target file of each in turn (a.en a.de b.en b.de), several files of
    pairs, or several splits."""
    weights: tuple[float, ...] = ()
    """How often each pair of a corpus occurs per epoch, one number for each
    corpus of `train` (fractions are allowed). By default 1 for all."""
    temperature: Annotated[float, at_least(1)] | None = None
    """Mix the corpora of `train` in proportion to n^(1/T), where n is their
    number of pairs and T this value, instead of by weights. Each pair of
    the largest corpus occurs once per epoch."""
    validation: tuple[str, ...] = ()
    """Validation pairs, given like `train`. Their loss is computed during
    training."""
    test: tuple[str, ...] = ()
    """Test pairs, given like `train`. They are translated and scored at the
    end."""
    tags: str | None = None
    """Key or column with a list of tags for each pair, in JSONL, parquet and
    Hugging Face datasets. Scores are broken down by tag. None reads
    `tags` from the pairs that have it."""
    split_key: str = "split"
    """Key or column that names the split of each pair, in one file that
    contains all splits."""
    tsv_columns: tuple[int, int] = (0, 1)
    """Column numbers of source and target in a TSV file, counted from 0."""
    normalization: Normalization = "nfc"
    """Normalization of text before tokenization. `nfc` composes characters
    (Unicode NFC), turns each run of white space into one space, strips
    both ends, and removes the invisible characters U+200B, U+2060, U+FEFF
    and U+00AD. `none` leaves text unchanged. References are always scored
    as given."""
    drop_empty: bool = False
    """Drop and count training pairs with an empty side, instead of stopping
    at the first one."""
    allow_empty: bool = False
    """Keep and count pairs with an empty side in the validation and test
    sets, instead of stopping at the first one."""
    drop_duplicates: bool = False
    """Drop and count repeated training pairs."""
    cache: str | None = None
    """Folder where the tokens of the training pairs are kept for several
    runs with the same data and tokenizer. None keeps them in the run
    directory."""
    max_length: Annotated[int, at_least(2)] = 256
    """Maximum source or target length for training, in tokens including the
    end token. Longer pairs are dropped and counted."""
    max_length_ratio: Annotated[float, at_least(1)] | None = None
    """Drop and count training pairs whose longer side has more than this
    many times the tokens of the shorter. None keeps them."""

    def __post_init__(self) -> None:
        check(self, "data")
        self._check_mixture()
        for name in ("validation", "test") if len(self.corpora) > 1 else ("train", "validation", "test"):
            given = getattr(self, name)
            if self.corpus == "files":
                require(
                    len(given) <= 2,
                    f"data.{name} takes two files (source and target, one sentence per line) or one file (TSV, JSONL "
                    f"or parquet), but {len(given)} were given.",
                )
            else:
                require(
                    len(given) <= 1,
                    f"data.{name} takes one split name of {self.corpus}, but got {len(given)}: {' '.join(given)}. To "
                    "read these files, add --data.corpus files.",
                )
        require(
            self.corpus != "",
            "data.corpus is empty. Give `files`, one file that contains all splits, or the name of a Hugging Face "
            "dataset.",
        )
        require(
            not self.corpus.startswith("package:") or self.corpus == "package:quickstart.jsonl.xz",
            f"data.corpus={self.corpus} names no file that comes with the package. Use package:quickstart.jsonl.xz.",
        )
        require(
            self.corpus_config is None or not (self.corpus == "files" or self.is_one_file),
            f"data.corpus_config={self.corpus_config} is for a Hugging Face dataset, but data.corpus is {self.corpus}. "
            "Set it to None.",
        )
        require(
            self.tsv_columns[0] != self.tsv_columns[1] and min(self.tsv_columns) >= 0,
            f"data.tsv_columns must be two different columns counted from 0, but is {self.tsv_columns}.",
        )

    def _check_mixture(self) -> None:
        require(
            self.temperature is None or not self.weights,
            "data.weights and data.temperature are both given. Leave out one of them.",
        )
        require(
            all(0 < weight <= 1e6 for weight in self.weights),
            f"data.weights must be positive numbers up to 1,000,000, but is {self.weights}.",
        )
        require(
            len(self.weights) in (0, len(self.corpora)),
            f"data.weights has {len(self.weights)} numbers, but data.train has {len(self.corpora)} corpora. Give one "
            "for each.",
        )

    @property
    def corpora(self) -> tuple[tuple[str, ...], ...]:
        """The files, or the name of the split, of each training corpus.

        Two different files of pairs are two corpora. One file given twice, or together with a text file, gives one side
        each time.
        """
        given = self.train
        if self.corpus != "files":
            looks_like_a_file = any(re.search(r"[./\\]", name) for name in given[1:])
            return (given,) if looks_like_a_file else tuple((name,) for name in given)
        if len({*given}) > 1 and all(re.search(_PAIRS, name, re.IGNORECASE) for name in given):
            return tuple((name,) for name in given)
        if len(given) % 2 == 0 and not any(re.search(_PAIRS, name, re.IGNORECASE) for name in given[2:]):
            return tuple(given[n : n + 2] for n in range(0, len(given), 2))
        return (given,)

    @property
    def is_one_file(self) -> bool:
        """Whether `corpus` is one file that contains all splits."""
        return re.search(r"\.(jsonl?|parquet)(\.(gz|xz|zst))?$", self.corpus, re.IGNORECASE) is not None


@dataclass(frozen=True)
class TokenizerConfig:
    """Byte-level BPE tokenizer, joint for both languages.

    `model.vocabulary_size` sets its size.
    """

    file: str | None = None
    """Path of a `tokenizer.json` to use, instead of training one on the
    training text."""
    pad_id: Natural = 0
    """Id of padding."""
    start_id: Natural = 1
    """Id that the decoder starts from (in OPUS-MT models, the pad id)."""
    end_id: Natural = 2
    """Id of the token that ends every sentence."""

    def __post_init__(self) -> None:
        check(self, "tokenizer")
        require(
            self.end_id not in (self.pad_id, self.start_id),
            f"tokenizer.end_id ({self.end_id}) must differ from pad_id and start_id, because it ends a sentence.",
        )

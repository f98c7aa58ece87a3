"""The training text and its tokens."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from transformer.config.bounds import Natural, at_least, check
from transformer.errors import require

Normalization = Literal["nfc", "none"]


@dataclass(frozen=True)
class DataConfig:
    """Where sentence pairs come from, and which of them are kept.

    In files, a split is two files (a Moses pair: source first, target second, one sentence a line) or one file (TSV,
    JSONL or parquet), any of them also as .gz, .xz or .zst. Where two files are given, a file of pairs gives the side
    that it is named for. Of a Hugging Face dataset a split is the name of a split there. One JSONL or parquet file can
    also hold all splits, with a key that names the split of each pair.
    """

    corpus: str = "files"
    """`files`; one JSONL or parquet file that holds all splits; or the name of a Hugging Face dataset, for instance
    `bentrevett/multi30k`. `package:quickstart.jsonl.xz` is a synthetic English-German corpus that comes with this
    package."""
    corpus_config: str | None = None
    """Configuration of the Hugging Face dataset, where it has several (`de-en` of wmt14)."""
    source_language: str = "en"
    """Language code of the source: the key or column in JSONL, parquet and Hugging Face datasets."""
    target_language: str = "de"
    """Language code of the target: the key or column in JSONL, parquet and Hugging Face datasets."""
    train: tuple[str, ...] = ()
    """Training pairs: two files, one file, or the name of a split. In a file that holds all splits they are called
    `train`, `validation` and `test` unless any is named."""
    validation: tuple[str, ...] = ()
    """Validation pairs, in the same forms; scored while training."""
    test: tuple[str, ...] = ()
    """Test pairs, in the same forms; scored at the end."""
    tags: str | None = None
    """Key or column with a list of tags of each pair, in JSONL, parquet and Hugging Face datasets: scores are broken
    down by them. If None, by the `tags` of those pairs that have any."""
    split_key: str = "split"
    """Key or column with the split of each pair, in one file that holds all splits."""
    tsv_columns: tuple[int, int] = (0, 1)
    """Columns of source and target in a TSV file, counted from 0."""
    normalization: Normalization = "nfc"
    """What happens to a sentence before it is tokenized. `nfc`: characters are composed (Unicode's NFC), any white
    space becomes one space, both ends are stripped, and U+200B, U+2060, U+FEFF and U+00AD, which do not show, are
    removed. `none`: nothing. References are scored as they are."""
    drop_empty: bool = False
    """Drop and count training pairs with an empty side, instead of stopping at the first one."""
    allow_empty: bool = False
    """Keep and count pairs with an empty side in the validation and test sets, instead of stopping at the first one."""
    drop_duplicates: bool = False
    """Drop and count training pairs that were seen before."""
    max_length: Annotated[int, at_least(2)] = 256
    """Longest source or target kept for training, in tokens with the end id; longer pairs are dropped and counted."""
    max_length_ratio: Annotated[float, at_least(1)] | None = None
    """Drop and count training pairs whose longer side has more than this many times the tokens of the shorter."""

    def __post_init__(self) -> None:
        check(self, "data")
        for name in ("train", "validation", "test"):
            given = getattr(self, name)
            if self.corpus == "files":
                require(
                    len(given) <= 2,
                    f"data.{name} takes two files (source and target, one sentence a line) or one file (TSV, JSONL or "
                    f"parquet), but {len(given)} were given.",
                )
            else:
                require(
                    len(given) <= 1,
                    f"data.{name} takes one split name of {self.corpus}, but got {len(given)}: {' '.join(given)}. To "
                    "read these files, add --data.corpus files.",
                )
        require(
            self.corpus != "",
            "data.corpus is empty: give files, a file that holds all splits, or a Hugging Face dataset.",
        )
        require(
            not self.corpus.startswith("package:") or self.is_one_file,
            f"data.corpus={self.corpus} names no file that comes with the package. Give package:quickstart.jsonl.xz.",
        )
        require(
            self.corpus_config is None or not (self.corpus == "files" or self.is_one_file),
            f"data.corpus_config={self.corpus_config} is for a Hugging Face dataset, but data.corpus is {self.corpus}.",
        )
        require(
            self.tsv_columns[0] != self.tsv_columns[1] and min(self.tsv_columns) >= 0,
            f"data.tsv_columns must be two different columns counted from 0, but is {self.tsv_columns}.",
        )

    @property
    def is_one_file(self) -> bool:
        """Whether `corpus` is one file that holds all splits."""
        return re.search(r"\.(jsonl?|parquet)(\.(gz|xz|zst))?$", self.corpus, re.IGNORECASE) is not None


@dataclass(frozen=True)
class TokenizerConfig:
    """The joint byte-level BPE. Its size is `model.vocabulary_size`."""

    file: str | None = None
    """An existing `tokenizer.json` to use instead of training one on the training text."""
    pad_id: Natural = 0
    """Id that fills a row after its end."""
    start_id: Natural = 1
    """Id that the decoder starts from (OPUS-MT models start from their pad id)."""
    end_id: Natural = 2
    """Id after the last token of every sentence."""

    def __post_init__(self) -> None:
        check(self, "tokenizer")
        require(
            self.end_id not in (self.pad_id, self.start_id),
            f"tokenizer.end_id ({self.end_id}) must differ from pad_id and start_id, or no sentence could end.",
        )

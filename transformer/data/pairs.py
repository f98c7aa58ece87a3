"""Sentence pairs with their annotations, and the report of reading them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeVar

TAGS, ANTECEDENTS = "tags", "antecedents"
"""The usual keys of the annotations in JSONL and parquet files."""

CHUNK = 10_000
"""Number of pairs that are read, checked and tokenized at once."""

T = TypeVar("T")


class Antecedent(NamedTuple):
    """The antecedent of a pronoun in a source sentence. All words are in lower case."""

    pronoun: str
    """The pronoun, which occurs once in the sentence."""
    noun: str
    """The antecedent, which also occurs once."""
    nouns: tuple[str, ...]
    """All nouns of the sentence that the pronoun could refer to, including the antecedent."""
    owned: str | None = None
    """For a possessive pronoun, the noun after it, whose owner is the antecedent."""


class Pairs(NamedTuple):
    """Sentences and their translations. `targets[i]` translates `sources[i]`."""

    sources: list[str]
    targets: list[str]
    tags: list[tuple[str, ...]] | None = None
    """The tags of each pair, by which scores are broken down. None if the corpus has no tags."""
    antecedents: list[tuple[Antecedent, ...]] | None = None
    """The antecedents of the pronouns in each source. None if the corpus has no such annotations."""
    further_references: tuple[list[str], ...] = ()
    """The second, third, ... reference translation of each source, if a test set has several."""

    def select(self, kept: Sequence[int]) -> "Pairs":
        """The pairs with these indices, in this order."""

        def of(column: list[T]) -> list[T]:
            return [column[index] for index in kept]

        return Pairs(
            of(self.sources),
            of(self.targets),
            None if self.tags is None else of(self.tags),
            None if self.antecedents is None else of(self.antecedents),
            tuple(map(of, self.further_references)),
        )

    @property
    def num_empty(self) -> int:
        """Number of pairs with an empty source or reference.

        Text that is only white space is empty as well.
        """
        sides = zip(self.sources, self.targets, *self.further_references, strict=True)
        return sum(not all(text.strip() for text in texts) for texts in sides)

    def rows(self, source_language: str, target_language: str) -> Iterator[dict[str, Any]]:
        """Yields the pairs as objects of a JSONL file that `read_files` can read."""
        for index, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            row: dict[str, Any] = {source_language: source, target_language: target}
            if self.tags is not None:
                row[TAGS] = self.tags[index]
            if self.antecedents is not None and self.antecedents[index]:
                row[ANTECEDENTS] = [antecedent._asdict() for antecedent in self.antecedents[index]]
            yield row

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the sentences in hex.

        It identifies the data, regardless of the files that they were read from.
        """
        digest = hashlib.sha256()
        self.update(digest)
        return digest.hexdigest()

    def update(self, digest: "hashlib._Hash") -> None:
        """Adds the sentences to a hash.

        The hash of several chunks, one after the other, is the hash of all pairs.
        """
        for pair in zip(self.sources, self.targets, *self.further_references, strict=True):
            digest.update(json.dumps(pair).encode())


class Chunk(NamedTuple):
    """Some consecutive sentence pairs of a file or data set."""

    pairs: Pairs
    numbers: Sequence[int]
    """The line or row of each pair, from 1."""
    corpus: int = 0
    """Index of the corpus, among several that are mixed."""

    def select(self, kept: Sequence[int]) -> "Chunk":
        """The pairs with these indices."""
        if len(kept) == len(self.numbers):
            return self
        return Chunk(self.pairs.select(kept), [self.numbers[index] for index in kept], self.corpus)


def joined(chunks: Iterable[Chunk]) -> Pairs:
    """All pairs of some chunks in memory."""
    parts = [chunk.pairs for chunk in chunks]

    def column(name: str) -> list[Any] | None:
        """An annotation, which is empty for pairs of a chunk without it. None if no chunk has it."""
        if all(getattr(part, name) is None for part in parts):
            return None
        return [one for part in parts for one in getattr(part, name) or [()] * len(part.sources)]

    sources = [source for part in parts for source in part.sources]
    targets = [target for part in parts for target in part.targets]
    return Pairs(sources, targets, column("tags"), column("antecedents"))


@dataclass
class Report:
    """How many pairs of a split were read, and how many were dropped for which reason."""

    files: tuple[str, ...]
    """The files, or the Hugging Face dataset with its split."""
    read: int = 0
    """Number of pairs read."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Number of pairs dropped for each reason."""
    empty: int = 0
    """Number of pairs kept although a side is empty."""

    @property
    def kept(self) -> int:
        """Number of pairs that are left."""
        return self.read - sum(self.dropped.values())

    def drop(self, reason: str, count: int) -> None:
        """Records that `count` more pairs are dropped for a reason.

        A count of 0 is not recorded.
        """
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def add(self, other: "Report") -> None:
        """Adds the counts of another corpus."""
        self.files = tuple(dict.fromkeys((*self.files, *other.files)))
        self.read += other.read
        self.empty += other.empty
        for reason, count in other.dropped.items():
            self.drop(reason, count)

    def to_dict(self) -> dict[str, Any]:
        """The report as it is written to `data.json` in the run directory."""
        return {**asdict(self), "files": list(self.files), "kept": self.kept}

    def __str__(self) -> str:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        return (
            f"{self.read:,} pairs read from {', '.join(self.files)}; {self.kept:,} kept"
            f"{f', {self.empty:,} of them with an empty side' if self.empty else ''}"
            f"{f'; dropped: {dropped}' if dropped else ''}."
        )

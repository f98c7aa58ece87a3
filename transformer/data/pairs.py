"""Sentence pairs in memory, what they are annotated with, and the report of where they came from."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeVar

TAGS, ANTECEDENTS = "tags", "antecedents"  # their keys in JSONL and parquet

T = TypeVar("T")


class Antecedent(NamedTuple):
    """What a pronoun of a source sentence stands for; all words in lower case."""

    pronoun: str
    """It occurs once in the sentence."""
    noun: str
    """The antecedent, which occurs once, too."""
    nouns: tuple[str, ...]
    """All nouns of the sentence that the pronoun might stand for, the antecedent among them."""
    owned: str | None = None
    """Of a possessive pronoun: the noun after it, whose owner the antecedent is."""


class Pairs(NamedTuple):
    """Sentences and their translations: `targets[i]` translates `sources[i]`."""

    sources: list[str]
    targets: list[str]
    tags: list[tuple[str, ...]] | None = None
    """What each pair has been tagged with, to break scores down; None if the corpus has no tags."""
    antecedents: list[tuple[Antecedent, ...]] | None = None
    """The antecedents of each source sentence's pronouns; None if the corpus does not say."""
    further_references: tuple[list[str], ...] = ()
    """Second, third, ... translations of every source, where a test set has several."""

    def select(self, kept: Sequence[int]) -> "Pairs":
        """The pairs with these indices."""

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
        """Pairs of which a side is empty; blank space alone is empty, too."""
        sides = zip(self.sources, self.targets, *self.further_references, strict=True)
        return sum(not all(text.strip() for text in texts) for texts in sides)

    def rows(self, source_language: str, target_language: str) -> Iterator[dict[str, Any]]:
        """The pairs as rows of a JSONL file, with the keys that `read_files` knows."""
        for index, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            row: dict[str, Any] = {source_language: source, target_language: target}
            if self.tags is not None:
                row[TAGS] = self.tags[index]
            if self.antecedents is not None and self.antecedents[index]:
                row[ANTECEDENTS] = [antecedent._asdict() for antecedent in self.antecedents[index]]
            yield row

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the sentences, in hex: which data this is, whatever files it came from."""
        digest = hashlib.sha256()
        for pair in zip(self.sources, self.targets, *self.further_references, strict=True):
            digest.update(json.dumps(pair).encode())
        return digest.hexdigest()


@dataclass
class Report:
    """What was read, what was kept, and what was dropped and why."""

    files: tuple[str, ...]
    """The files, or the hub dataset with its split."""
    read: int
    """Pairs read."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Pairs dropped, by reason."""

    @property
    def kept(self) -> int:
        """Pairs that are left."""
        return self.read - sum(self.dropped.values())

    def drop(self, reason: str, count: int) -> None:
        """Counts pairs that are dropped for a reason."""
        if count:
            self.dropped[reason] = count

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the run directory."""
        return {**asdict(self), "files": list(self.files), "kept": self.kept}

    def __str__(self) -> str:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        return (
            f"{self.read:,} pairs read from {', '.join(self.files)}; {self.kept:,} kept"
            f"{f'; dropped: {dropped}' if dropped else ''}."
        )

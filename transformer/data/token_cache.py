"""Token ids of the training pairs in memory-mapped files, made once.

FOLDER/*.bin         the arrays of `TokenPairs`
FOLDER/tokens.json   what they were made of (`key`), their types, the report on reading and the pairs' fingerprint
FOLDER/SHA256SUMS    the checksums of these files, written last
FOLDER/progress.json how much of an interrupted tokenization can be used
FOLDER.lock          held by the process that tokenizes

Readers need no lock: only a folder whose files have the expected checksums is used. Files are replaced, never changed,
so a process that has mapped older ones keeps them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from transformer.config import DataConfig
from transformer.data.corpus import corpora_of, load_rows, names_of, stream_pairs
from transformer.data.pair_files import suffix
from transformer.data.pairs import Chunk, Report
from transformer.data.raw_files import BLOCK, open_file, version
from transformer.data.token_files import TokenFiles
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokens import TokenPairs, encode, longest, require_pairs, within_limits
from transformer.errors import InputError
from transformer.files import as_json, read_json, write_whole
from transformer.interruption import check, checked
from transformer.manifest import MANIFEST, damaged_files, has_manifest, write_manifest
from transformer.stages import stage

FORMAT = 1
TOKENS, PROGRESS = "tokens.json", "progress.json"
_SAVE_EVERY = 10  # chunks
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what a file with other values leads to
# Fields of the config that change which pairs are read from given files.
_READING = (
    *("source_language", "target_language", "split_key", "tsv_columns", "normalization"),
    *("drop_empty", "drop_duplicates", "max_length_ratio"),
)


class CachedTokens(NamedTuple):
    """The training pairs as token ids, and what is known of their reading."""

    tokens: TokenPairs
    report: Report
    fingerprint: str
    """See `Pairs.fingerprint`."""


def cached_tokens(
    folder: Path,
    config: DataConfig,
    tokenizer: Tokenizer,
    max_length: int,
    check: Callable[[str], None] | None = None,
    *,
    shared: bool = False,
) -> CachedTokens:
    """Reads the token ids of the training pairs from a folder, or makes them there.

    If the folder has the tokens of the same data, made with the same tokenizer and limits, no text is read. An
    interrupted tokenization is continued.

    Args:
        folder: The folder of the files, which others replace.
        config: The training data, and which pairs are dropped.
        tokenizer: The tokenizer.
        max_length: Maximum number of tokens per side, including the end token, besides `config.max_length`.
        check: Checks the fingerprint of the pairs before anything is written; None checks nothing.
        shared: Whether the folder is a cache of several runs, in which the tokens have a folder of their own.

    Raises: InputError if the data cannot be read (see `corpus.read_pairs`), no pair is left, or the folder cannot be
        written to. Also what `check` raises.
    """
    key = _key(config, tokenizer, max_length)
    if shared:
        folder = folder / key[:32]
    arrays = TokenFiles(folder, max(tokenizer.source.size, tokenizer.target.size))
    if (found := _load(folder, key, config, arrays)) is not None:
        return found
    if check is not None:
        with stage("comparing the training pairs with those of the run"):
            check(fingerprint_of(stream_pairs(config, "train", Report(()))))
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            found = _load(folder, key, config, arrays, print)  # another process may have made them meanwhile
            if found is None:
                with stage("tokenizing the training pairs"):
                    _make(folder, key, config, arrays, tokenizer, max_length)
                found = _load(folder, key, config, arrays)
    if found is None:
        raise InputError(f"The tokens in {folder} are not those that were written. Run the same command again.")
    return found


def kept_tokens(folder: Path, config: DataConfig, tokenizer: Tokenizer, max_length: int) -> CachedTokens | None:
    """The tokens in a folder if they are those of a config, without writing anything; see `cached_tokens`."""
    arrays = TokenFiles(folder, max(tokenizer.source.size, tokenizer.target.size))
    return _load(folder, _key(config, tokenizer, max_length), config, arrays)


def lock_of(folder: Path) -> Path:
    """The file that the process which tokenizes holds."""
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits until no other process tokenizes into the folder, and keeps others from it meanwhile."""
    lock = FileLock(lock_of(folder))
    with stage(f"waiting for the process that holds {lock.lock_file} to tokenize the training pairs"):
        while not lock.is_locked:
            check()
            with suppress(Timeout):
                lock.acquire(timeout=1)
    try:
        yield
    finally:
        lock.release()


def is_unfinished(folder: Path) -> bool:
    """Whether a tokenization was interrupted, and can be continued."""
    return (folder / PROGRESS).exists() and not has_manifest(folder)


def fingerprint_of(chunks: Iterator[Chunk]) -> str:
    """The fingerprint of all pairs of a stream; see `Pairs.fingerprint`."""
    digest, corpus = hashlib.sha256(), 0
    for chunk in chunks:
        corpus = _update(digest, chunk, corpus)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", chunk: Chunk, corpus: int) -> int:
    """Adds a chunk to a fingerprint, with a mark where a new corpus begins; returns the index of its corpus."""
    if chunk.corpus != corpus:
        digest.update(f"corpus {chunk.corpus}".encode())
    chunk.pairs.update(digest)
    return chunk.corpus


def _key(config: DataConfig, tokenizer: Tokenizer, max_length: int) -> str:
    """SHA-256 in hex of all that decides about the token ids: the data files, the config and the tokenizer."""
    about = {name: getattr(config, name) for name in _READING}
    about |= {"format": FORMAT, "tokenizer": tokenizer.fingerprint, "longest": longest(config, max_length)}
    about["corpora"] = [[_identity(config, name) for name in given] for given in corpora_of(config, "train")]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _identity(config: DataConfig, given: str) -> list[str]:
    """What identifies the content of a data file, or of a split."""
    if config.corpus == "files":
        return _file_identity(given)
    if config.is_one_file:
        return [*_file_identity(config.corpus), given]
    rows = load_rows(config, given)
    return [config.corpus, str(config.corpus_config), given, str(getattr(rows, "_fingerprint", None))]


def _file_identity(path: str) -> list[str]:
    if (known := version(path)) is not None:
        return [path, known]
    digest = hashlib.sha256()
    with open_file(path) as file:
        try:
            for block in checked(iter(partial(file.read, BLOCK), b"")):
                digest.update(block)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return [suffix(path), Path(path).suffix.lower(), digest.hexdigest()]


def _load(
    folder: Path, key: str, config: DataConfig, arrays: TokenFiles, say: Callable[[str], None] = lambda _: None
) -> CachedTokens | None:
    """The tokens in a folder; None if they are missing, damaged, which is said, or were made of something else."""
    try:
        about = read_json(folder / TOKENS)
        if about["key"] != key or about["arrays"] != arrays.dtypes or not has_manifest(folder):
            return None
        if damaged := damaged_files(folder, ()):
            say(f"The tokens in {folder} are damaged ({', '.join(damaged)}). Tokenizing again.")
            return None
        tokens = arrays.load(_sizes(about["sizes"], config))
        names = chain.from_iterable(names_of(given, config) for given in corpora_of(config, "train"))
        files, counts = tuple(dict.fromkeys(names)), about["report"]  # the files may have moved
        report = Report(files, _count(counts["read"]), _counts(counts["dropped"]), _count(counts["empty"]))
        return CachedTokens(tokens, report, str(about["data"]))
    except _DAMAGE:
        return None


def _count(value: Any) -> int:
    """A count in a JSON file. Raises ValueError if it is none."""
    if not isinstance(value, int) or value < 0:
        raise ValueError("not a count")
    return value


def _counts(values: dict[str, Any]) -> dict[str, int]:
    return {name: _count(value) for name, value in values.items()}


def _sizes(values: list[Any], config: DataConfig) -> tuple[int, ...]:
    """Number of pairs of each training corpus. The last corpora have none, and are left out, if they are empty."""
    if len(values) > len(corpora_of(config, "train")):
        raise ValueError("more numbers than corpora")
    return tuple(map(_count, values))


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Explains why tokens cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Could not write the tokens to {folder} ({error.strerror or error}). Free some space, or give another "
            "folder as --data.cache. The same command continues."
        ) from error


def _make(
    folder: Path, key: str, config: DataConfig, arrays: TokenFiles, tokenizer: Tokenizer, max_length: int
) -> None:
    """Tokenizes the training pairs chunk by chunk, after those that an interrupted process has tokenized."""
    done, sizes, limits = _resume(folder, key, config, arrays)
    report, digest, corpus = Report(()), hashlib.sha256(), 0
    for index, chunk in enumerate(stream_pairs(config, "train", report)):
        corpus = _update(digest, chunk, corpus)
        if index < done:
            continue
        tokens = encode(chunk.pairs, tokenizer)._replace(numbers=np.array(chunk.numbers, np.int64))
        tokens = within_limits(tokens, config, limits, max_length)
        arrays.append(tokens)
        sizes += [0] * (corpus + 1 - len(sizes))
        sizes[corpus] += tokens.num_pairs
        if (index + 1) % _SAVE_EVERY == 0:
            arrays.sync()
            progress = {"key": key, "chunks": index + 1, "sizes": sizes, "dropped": limits.dropped}
            write_whole(folder / PROGRESS, as_json(progress | {"bytes": arrays.sizes()}))
    for reason, count in limits.dropped.items():
        report.drop(reason, count)
    require_pairs(sum(sizes), report)
    arrays.sync()
    about: dict[str, Any] = {"key": key, "arrays": arrays.dtypes, "sizes": sizes, "data": digest.hexdigest()}
    write_whole(folder / TOKENS, as_json(about | {"report": dataclasses.asdict(report)}))
    write_manifest(folder, without={PROGRESS})
    (folder / PROGRESS).unlink(missing_ok=True)


class _Progress(NamedTuple):
    """What `progress.json` says: numbers of chunks, of pairs by corpus, of dropped pairs, and the files' sizes."""

    chunks: int
    sizes: list[int]
    dropped: dict[str, int]
    bytes: dict[str, int]


def _resume(folder: Path, key: str, config: DataConfig, arrays: TokenFiles) -> tuple[int, list[int], Report]:
    """Prepares the files.

    Returns: The number of chunks that they hold, the number of pairs of each corpus, and what was dropped.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    if (progress := _progress(folder, key, config, arrays)) is not None and arrays.truncate(progress.bytes):
        return progress.chunks, progress.sizes, Report((), dropped=progress.dropped)
    for name in (PROGRESS, TOKENS):
        (folder / name).unlink(missing_ok=True)
    arrays.begin()
    return 0, [], Report(())


def _progress(folder: Path, key: str, config: DataConfig, arrays: TokenFiles) -> _Progress | None:
    """What an interrupted process has left of the same tokens."""
    try:
        about = read_json(folder / PROGRESS)
        if about["key"] != key or about["bytes"].keys() != arrays.dtypes.keys():
            return None
        sizes = _sizes(about["sizes"], config)
        return _Progress(_count(about["chunks"]), [*sizes], _counts(about["dropped"]), _counts(about["bytes"]))
    except _DAMAGE:
        return None

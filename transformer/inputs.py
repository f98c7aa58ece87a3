"""What a run learns from and is scored on: sentence pairs, the tokenizer and token ids."""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from transformer import processes
from transformer.config import Config
from transformer.data.batches import Batches
from transformer.data.corpus import Pairs, Split, corpora_of, read_pairs, splits, stream_pairs
from transformer.data.mixture import weights_of
from transformer.data.pairs import Report
from transformer.data.token_cache import CachedTokens, cached_tokens, is_unfinished, lock_of
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokenizer_files import load_tokenizer
from transformer.data.tokens import TokenPairs, tokenize
from transformer.errors import InputError
from transformer.inference.metrics import check_metrics
from transformer.interruption import checked
from transformer.origin import folder
from transformer.run_dir import TOKENS, data_fingerprints
from transformer.stages import stage


class Inputs(NamedTuple):
    """The data of a run.

    Attributes:
        pairs: The sentences of the validation and test sets.
        tokens: The token ids of all splits. Those of the training pairs are memory-mapped.
        tokenizer: The tokenizer.
        about: What is written to `data.json`, by split.
    """

    pairs: dict[Split, Pairs]
    tokens: dict[Split, TokenPairs]
    tokenizer: Tokenizer
    about: dict[Split, dict[str, Any]]


def read_inputs(config: Config) -> Inputs:
    """Reads all splits that a config names, in every process, and prints what was read and dropped.

    The text of the training pairs is never in memory as a whole. It is not read at all if their tokens are kept from an
    earlier start. The first process of a job trains the tokenizer and makes the tokens, while the others wait.

    Raises: InputError if anything cannot be read, or differs from what the run was started with, or between processes.
    """
    own = processes.by_first(lambda: _read(config, load_or_train_tokenizer))
    trained = own.tokenizer.text if own is not None and isinstance(own.tokenizer, BpeTokenizer) else None
    text = processes.of_first(trained)

    def tokenizer_of(config: Config) -> Tokenizer:
        if text is None:
            return load_or_train_tokenizer(config)
        return BpeTokenizer(text, config.tokenizer, config.data.normalization)

    inputs = processes.agree(lambda: _read(config, tokenizer_of) if own is None else own)
    processes.require_same("The data is", {split: report["fingerprint"] for split, report in inputs.about.items()})
    return inputs


def _read(config: Config, tokenizer_of: Callable[[Config], Tokenizer]) -> Inputs:
    pairs: dict[Split, Pairs] = {}
    reports: dict[Split, Report] = {}
    _require_splits(config)
    for split in checked(splits(config.data)):
        if split != "train":
            with stage(f"reading the {split} pairs"):
                pairs[split], reports[split] = read_pairs(config.data, split)
            check_data(config.run_dir, split, pairs[split].fingerprint)
    check_metrics(config, pairs)
    tokenizer = tokenizer_of(config)
    train = training_tokens(config, tokenizer)
    check_data(config.run_dir, "train", train.fingerprint)
    tokens: dict[Split, TokenPairs] = {"train": train.tokens}
    about: dict[Split, dict[str, Any]] = {"train": train.report.to_dict() | {"fingerprint": train.fingerprint}}
    print(f"train: {train.report}")
    positions = config.model.max_positions
    for split in checked(pairs):
        own, report = pairs[split], reports[split]
        with stage(f"tokenizing the {split} pairs"):
            tokens[split] = tokenize(own, tokenizer, config.data, report, filter=False, max_length=positions)
        about[split] = report.to_dict() | {"fingerprint": own.fingerprint}
        print(f"{split}: {report}")
    if (weights := mixture_weights(config, train.tokens)) is not None:
        about["train"]["corpora"] = _mixture(config, train.tokens.sizes, weights)
    return Inputs(pairs, tokens, tokenizer, about)


def _mixture(config: Config, sizes: Sequence[int], weights: Sequence[float]) -> list[dict[str, Any]]:
    """What `data.json` says about each training corpus, which is printed as well."""
    corpora = [
        {"files": [*files], "pairs": size, "weight": weight, "per_epoch": math.floor(weight * size + 0.5)}
        for files, size, weight in zip(corpora_of(config.data, "train"), sizes, weights, strict=True)
    ]
    for corpus in corpora:
        print(f"corpus {' '.join(corpus['files'])}: {corpus['pairs']:,} pairs, {corpus['per_epoch']:,} per epoch")
    return corpora


def training_tokens(config: Config, tokenizer: Tokenizer) -> CachedTokens:
    """The tokens of the training pairs, from the run directory or the cache that the config names."""
    recorded = data_fingerprints(config.run_dir).get("train")
    cache = config.data.cache
    return cached_tokens(
        Path(config.run_dir) / TOKENS if cache is None else Path(cache).expanduser(),
        config.data,
        tokenizer,
        config.training.pack_length or config.data.max_length,
        None if recorded is None else partial(check_data, config.run_dir, "train"),
        shared=cache is not None,
    )


def training_batches(config: Config, tokens: TokenPairs, row_multiple: int) -> Batches:
    """The batches of a run, packed from the tokens of its training pairs.

    Args:
        config: The experiment.
        tokens: The training pairs.
        row_multiple: The number of rows of a batch is a multiple of this.
    """
    return Batches(
        tokens,
        config.tokenizer,
        tokens=config.training.batch_tokens,
        seed=config.seed,
        pack_length=config.training.pack_length or config.data.max_length,
        weights=mixture_weights(config, tokens),
        row_multiple=row_multiple,
    )


def mixture_weights(config: Config, tokens: TokenPairs) -> list[float] | None:
    """How often each pair of a training corpus occurs per epoch. None if there is one corpus, without a weight."""
    return weights_of(config.data, tokens.sizes) if config.data.weights or len(tokens.sizes) > 1 else None


@contextmanager
def nothing_left_if_refused(run_dir: Path) -> Iterator[None]:
    """Removes the tokens of a run whose input is refused before the run has begun.

    What an interrupted tokenization has made is kept.
    """
    tokens = run_dir / TOKENS
    existed, tokens_existed = run_dir.exists(), tokens.exists()
    try:
        yield
    except InputError:
        if (
            processes.is_first()
            and not tokens_existed
            and tokens.exists()
            and not (run_dir / "config.json").exists()
            and not is_unfinished(tokens)
        ):
            shutil.rmtree(tokens)
            lock_of(tokens).unlink(missing_ok=True)
            if not existed and not any(run_dir.iterdir()):
                run_dir.rmdir()
        raise


def check_data(run_dir: str | Path, split: Split, fingerprint: str) -> None:
    """Compares the content of sentence pairs with what a run was started with.

    Raises: InputError if they differ.
    """
    if data_fingerprints(run_dir).get(split) not in (None, fingerprint):
        raise InputError(
            f"The {split} pairs differ from those that the run in {run_dir} was started with. Restore the files, or "
            "give another --run-dir."
        )


def _require_splits(config: Config) -> None:
    for split in data_fingerprints(config.run_dir):
        if split not in splits(config.data):
            raise InputError(
                f"The run in {config.run_dir} was started with {split} pairs, but none are given. Name them with "
                f"--data.{split}, or give another --run-dir."
            )


def load_or_train_tokenizer(config: Config) -> Tokenizer:
    """Loads the tokenizer of the run, of the run that it starts from or of the configured file, or else trains one.

    Raises: InputError if the configured file differs from the tokenizer of one of these runs, or the training pairs
        cannot be read.
    """
    owner, given = Path(config.run_dir), config.tokenizer.file
    if config.init_from is not None and not (owner / "tokenizer.json").exists():
        owner = folder(config.init_from)
    if (kept := owner / "tokenizer.json").exists():
        tokenizer = load_tokenizer(kept, config)
        other = load_tokenizer(given, config) if given and Path(given).exists() else tokenizer
        if other.fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"{given} is not the tokenizer that the run in {owner} was trained with, so its token ids mean other "
                "text. Leave out --tokenizer.file, or start another run without that one."
            )
        return tokenizer
    if given is not None:
        return load_tokenizer(given, config)
    with stage("training the tokenizer"):
        chunks = stream_pairs(config.data, "train", Report(()))
        texts = chain.from_iterable(side for chunk in chunks for side in chunk.pairs[:2])
        return BpeTokenizer.train(texts, config.model.vocabulary_size, config.tokenizer, config.data.normalization)

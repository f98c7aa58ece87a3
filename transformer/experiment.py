"""One experiment from config to scores: the straight way through the house, and what `train.py` runs."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax.numpy as jnp
from rich.console import Console

from transformer.checkpoint import Checkpoints, check_run, open_run, write_text
from transformer.config import Config, SearchConfig
from transformer.data.batches import Batches, TokenPairs, tokenize
from transformer.data.corpus import Pairs, read_pairs
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.inference.evaluate import Scores, score_translations
from transformer.inference.translator import Translator, load, translate
from transformer.model import Transformer
from transformer.runtime import resolve_dtype
from transformer.shapes import Params
from transformer.training import loop, parallel


def run(config: Config) -> None:
    """Trains, or resumes, or does nothing more to a trained run; then translates and scores the test set."""
    if not config.data.train:
        raise InputError("No training pairs are given: name them with --data.train (see --help).")
    check_run(config.run_dir, config)
    pairs, reports = {}, {}
    for split in ("train", "validation", "test"):
        if getattr(config.data, split):
            pairs[split], reports[split] = read_pairs(config.data, split)
    tokenizer = load_or_train_tokenizer(config, pairs["train"])
    longest = config.model.max_positions
    tokens = {
        split: tokenize(
            pairs[split], tokenizer, config.data, reports[split], filter=split == "train", max_length=longest
        )
        for split in pairs
    }
    for split, report in reports.items():
        print(f"{split}: {report}")
    dtype, reason = resolve_dtype(config.model.dtype)
    devices = parallel.num_devices()
    print(f"computing in {dtype} ({reason}) on {devices} device{'s' if devices > 1 else ''}")
    train_batches = make_batches(config, tokenizer, tokens["train"], config.training.accumulation_steps * devices)
    print(
        f"{train_batches.per_epoch:,} batches an epoch in {len(train_batches.shapes)} shapes, "
        f"{train_batches.padding:.1%} padding; {config.training.steps / train_batches.per_epoch:.1f} epochs"
    )
    validation = bleu = None
    if "validation" in tokens:
        validation = make_batches(config, tokenizer, tokens["validation"], devices, shuffle=False)
        if config.training.validation_bleu:
            bleu = partial(validation_bleu, config, dtype, tokenizer, pairs["validation"])

    # Only now, when nothing is left that could be wrong with the input, is anything written.
    run_dir = open_run(config.run_dir, config)
    tokenizer.save(run_dir / "tokenizer.json")
    read = {split: report.to_dict() for split, report in reports.items()}
    write_text(run_dir / "data.json", json.dumps(read, indent=2, ensure_ascii=False) + "\n")
    with Checkpoints(run_dir, config.training.keep_last, tokenizer.fingerprint) as checkpoints:
        loop.train(config, train_batches, validation, checkpoints, dtype=dtype, evaluate=bleu)
    if "test" in pairs:
        translator = load(run_dir)
        scores, hypotheses = score(translator, pairs["test"], config.search)
        write_text(run_dir / "scores.json", scores.to_json())
        write_text(run_dir / "hypotheses.txt", "".join(f"{line}\n" for line in hypotheses))
        Console().print(scores.to_table())
    print(f"Everything is in {run_dir}.")


def score(translator: Translator, pairs: Pairs, search: SearchConfig) -> tuple[Scores, list[str]]:
    """Scores of a test set, and the translations they are of."""
    hypotheses = translator.translate(pairs.sources, search)
    loss = translator.loss(*pairs)
    return score_translations(hypotheses, pairs.targets, loss=loss), hypotheses


def validation_bleu(
    config: Config, dtype: str, tokenizer: Tokenizer, pairs: Pairs, variables: Params
) -> dict[str, float]:
    """BLEU of the validation set, translated greedily."""
    model = Transformer(config.model, dtype=jnp.dtype(dtype))
    greedy = dataclasses.replace(config.search, beam_size=1)
    hypotheses = translate(model, variables, tokenizer, pairs.sources, greedy)
    return {"validation_bleu": score_translations(hypotheses, pairs.targets, bootstrap=2).bleu.score}


def load_or_train_tokenizer(config: Config, pairs: Pairs) -> Tokenizer:
    """The run's tokenizer if it has one already, else the configured file, else a new one."""
    size, kept = config.model.vocabulary_size, Path(config.run_dir) / "tokenizer.json"
    if kept.exists():
        return Tokenizer.load(kept, config.tokenizer, size)
    if config.tokenizer.file is not None:
        return Tokenizer.load(config.tokenizer.file, config.tokenizer, size)
    return Tokenizer.train((text for side in pairs for text in side), size, config.tokenizer)


def make_batches(
    config: Config, tokenizer: Tokenizer, tokens: TokenPairs, row_multiple: int, shuffle: bool = True
) -> Batches:
    return Batches(
        tokens,
        tokens=config.training.batch_tokens,
        num_shapes=config.training.num_shapes,
        row_multiple=row_multiple,
        seed=config.seed,
        pad_id=tokenizer.pad_id,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        shuffle=shuffle,
    )

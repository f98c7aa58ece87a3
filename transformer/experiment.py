"""One experiment from config to scores: the straight way through the house, and what `train.py` runs."""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax.numpy as jnp

from transformer.checkpoint import Checkpoints
from transformer.compilation import Compilations
from transformer.config import Config, DataConfig
from transformer.data.batches import Batches, tokenize
from transformer.data.corpus import Pairs, Split, read_files, read_pairs, splits
from transformer.data.tokenizer import Tokenizer
from transformer.errors import DivergenceError, InputError
from transformer.files import write_lines, write_whole
from transformer.inference.evaluate import bleu
from transformer.inference.metrics import metrics_of
from transformer.inference.translation import translate
from transformer.inference.translator import load
from transformer.interruption import checked
from transformer.model import Transformer
from transformer.run_dir import DIVERGED, adopt, check_run, data_fingerprints, hold_run, is_finished, open_run
from transformer.runtime import compute_before_returning, resolve_dtype, unused_accelerator, use_compilation_cache
from transformer.shapes import Params
from transformer.stages import stage
from transformer.training import loop, parallel

KEPT = {"validation": "validation.jsonl", "test": "test.jsonl"}  # in the run directory: `evaluate` needs nothing else


def run(config: Config) -> None:
    """Trains, or resumes, or does nothing more to a trained run; then translates and scores the test set."""
    if "train" not in splits(config.data):
        raise InputError("No training pairs are given: name them with --data.train (see --help).")
    check_run(config.run_dir, config)
    if (Path(config.run_dir) / "config.json").exists() and is_finished(config.run_dir):
        print(f"The run in {config.run_dir} is trained. Its test set is scored anew.", flush=True)
    if config.compilation_cache:
        use_compilation_cache()
    compute_before_returning()
    pairs, reports = {}, {}
    for split in checked(splits(config.data)):
        with stage(f"reading the {split} pairs"):
            pairs[split], reports[split] = read_pairs(config.data, split)
    check_data(config.run_dir, pairs)
    check_metrics(config, pairs)
    tokenizer = load_or_train_tokenizer(config, pairs["train"])
    pack_length, positions = config.training.pack_length or config.data.max_length, config.model.max_positions
    tokens = {}
    for split in checked(pairs):
        with stage(f"tokenizing the {split} pairs"):
            tokens[split] = tokenize(
                pairs[split],
                tokenizer,
                config.data,
                reports[split],
                filter=split == "train",
                max_length=pack_length if split == "train" else positions,
            )
    for split, report in reports.items():
        print(f"{split}: {report}")
    dtype, reason = resolve_dtype(config.model.dtype)
    devices = parallel.num_devices()
    print(f"compute dtype: {dtype} ({reason}) on {devices} device{'s' if devices > 1 else ''}")
    if (advice := unused_accelerator()) is not None:
        print(advice)
    batches = partial(Batches, ids=config.tokenizer, tokens=config.training.batch_tokens)
    with stage("packing the training pairs into rows"):
        train_batches = batches(
            tokens["train"],
            seed=config.seed,
            pack_length=pack_length,
            row_multiple=config.training.accumulation_steps * devices,
        )
    S, T, rows = train_batches.shape
    print(
        f"{train_batches.per_epoch:,} batches an epoch, each of {rows} rows of {S} source and {T} target tokens, "
        f"{train_batches.padding:.1%} padding; {config.training.steps / train_batches.per_epoch:.1f} epochs"
    )
    validation = evaluate = None
    if "validation" in tokens:
        validation = batches(tokens["validation"], row_multiple=devices, seed=None)
        if config.training.validation_bleu:
            evaluate = partial(validation_bleu, config, dtype, tokenizer, pairs["validation"])

    # Only now, when nothing is left that could be wrong with the input, is anything written.
    run_dir = open_run(config.run_dir, config)
    with hold_run(run_dir), Compilations(partial(print, flush=True)) as compilations:
        adopt(run_dir, config)
        tokenizer.save(run_dir / "tokenizer.json")
        keep_report(
            run_dir,
            {split: report.to_dict() | {"fingerprint": pairs[split].fingerprint} for split, report in reports.items()},
        )
        for split in KEPT.keys() & pairs.keys():
            keep_pairs(run_dir / KEPT[split], pairs[split], config.data)
        with Checkpoints(run_dir, config.training.keep_last, tokenizer.fingerprint) as checkpoints:
            (run_dir / DIVERGED).unlink(missing_ok=True)
            try:
                loop.train(config, train_batches, validation, checkpoints, dtype=dtype, evaluate=evaluate)
            except DivergenceError as error:
                write_whole(run_dir / DIVERGED, f"{error}\n".encode())
                raise
        if "test" in pairs:
            with stage("translating and scoring the test set"):
                scores, hypotheses = load(run_dir).evaluate(pairs["test"])
            write_whole(run_dir / "scores.json", scores.to_json().encode())
            write_lines(run_dir / "hypotheses.txt", hypotheses)
            print(f"\n{scores.to_text()}\n\n{examples(pairs['test'], hypotheses)}")
    print(f"\n{compilations}\nEverything is in {run_dir}.\n\n{next_commands(config)}")


def check_metrics(config: Config, pairs: Mapping[Split, Pairs]) -> None:
    """Says what makes the scores of a run misleading, before it begins.

    Raises: InputError if a metric lacks its tokenizer.
    """
    metrics = metrics_of(config)
    scored = [pairs["test"]] if "test" in pairs else []
    if scored:
        metrics.chosen()
    if "validation" in pairs and config.training.validation_bleu:
        metrics.bleu()
        scored.append(pairs["validation"])
    for warning in dict.fromkeys(warning for own in scored for warning in metrics.warnings(own.targets)):
        print(f"warning: {warning}")


def examples(pairs: Pairs, hypotheses: list[str], number: int = 5) -> str:
    """Some of the test set's sentences, from its whole length, with their references and translations."""
    number = min(number, len(hypotheses))
    places = [len(hypotheses) * (2 * index + 1) // (2 * number) for index in range(number)]
    return "\n\n".join(
        f"source       {pairs.sources[place]}\nreference    {pairs.targets[place]}\ntranslation  {hypotheses[place]}"
        for place in places
    )


def next_commands(config: Config) -> str:
    """What to do with a run."""
    own = "--data.corpus files --data.train SOURCE TARGET --data.test SOURCE TARGET --run-dir runs/mine"
    return "\n".join(
        [
            "Translate a sentence of your own:",
            f'    echo "The old dog sleeps." | transformer translate {config.run_dir}',
            "See where it looks, piece by piece:",
            f'    transformer attention {config.run_dir} --source "The old dog sleeps."',
            "Train on your own files, one sentence a line:",
            f"    transformer train {own}",
        ]
    )


def check_data(run_dir: str | Path, pairs: Mapping[str, Pairs]) -> None:
    """Compares the pairs with those that a run was begun with: their content, wherever they come from.

    Raises: InputError if those of a split differ or are missing.
    """
    for split, fingerprint in data_fingerprints(run_dir).items():
        advice = "give another --run-dir."
        if split not in pairs:
            raise InputError(f"The run in {run_dir} has {split} pairs: name them with --data.{split}, or {advice}")
        if pairs[split].fingerprint != fingerprint:
            raise InputError(
                f"The {split} pairs are not those that the run in {run_dir} was begun with. Restore the files, or "
                f"{advice}"
            )


def keep_report(run_dir: Path, report: dict[str, dict]) -> None:
    """Writes `data.json`."""
    write_whole(run_dir / "data.json", f"{json.dumps(report, indent=2, ensure_ascii=False)}\n".encode())


def keep_pairs(file: Path, pairs: Pairs, config: DataConfig) -> None:
    """Writes pairs into the run directory, for `read_test_set` and `read_validation_set`."""
    rows = pairs.rows(config.source_language, config.target_language)
    write_lines(file, (json.dumps(row, ensure_ascii=False) for row in rows))


def read_test_set(run_dir: str | Path, config: DataConfig) -> Pairs:
    """The test set of a run, as the run keeps it.

    Raises: InputError if the run has none.
    """
    return _read_kept(run_dir, "test", config)


def read_validation_set(run_dir: str | Path, config: DataConfig) -> Pairs:
    """The validation set of a run, as the run keeps it; of runs that do not keep it, from where they had it.

    Raises: InputError if the run has none, or what is there now is another one.
    """
    if (Path(run_dir) / KEPT["validation"]).exists() or "validation" not in splits(config):
        return _read_kept(run_dir, "validation", config)
    pairs, _ = read_pairs(config, "validation")
    if data_fingerprints(run_dir).get("validation") not in (None, pairs.fingerprint):
        raise InputError(
            f"The validation pairs that the config of {run_dir} names are not those it was trained with. Give --source "
            "and --reference."
        )
    return pairs


def _read_kept(run_dir: str | Path, split: str, config: DataConfig) -> Pairs:
    file = Path(run_dir) / KEPT[split]
    if not file.exists():
        raise InputError(f"The run in {run_dir} has no {split} set: give --source and --reference.")
    return read_files((str(file),), dataclasses.replace(config, tags=None), empty="keep")[0]  # under their usual key


def validation_bleu(config: Config, dtype: str, tokenizer: Tokenizer, pairs: Pairs, params: Params) -> dict[str, float]:
    """BLEU of the validation set, translated greedily."""
    model = Transformer(config.model, dtype=jnp.dtype(dtype))
    greedy = dataclasses.replace(config.search, beam_size=1)
    hypotheses = translate(model, params, tokenizer, pairs.sources, greedy)
    return {"validation_bleu": bleu(hypotheses, pairs.targets, metrics=metrics_of(config))}


def load_or_train_tokenizer(config: Config, pairs: Pairs) -> Tokenizer:
    """The run's tokenizer if it has one already, else the configured file, else a new one.

    Raises: InputError if the run has another tokenizer than the configured file.
    """
    size, normalization = config.model.vocabulary_size, config.data.normalization
    kept, given = Path(config.run_dir) / "tokenizer.json", config.tokenizer.file
    if kept.exists():
        tokenizer = Tokenizer.load(kept, config.tokenizer, size, normalization)
        other = tokenizer
        if given and Path(given).exists():
            other = Tokenizer.load(given, config.tokenizer, size, normalization)
        if other.fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"{given} is not the tokenizer that the run in {config.run_dir} was begun with. Leave out "
                "--tokenizer.file, or give another --run-dir."
            )
        return tokenizer
    if given is not None:
        return Tokenizer.load(given, config.tokenizer, size, normalization)
    with stage("learning the vocabulary"):
        return Tokenizer.train([*pairs.sources, *pairs.targets], size, config.tokenizer, normalization)

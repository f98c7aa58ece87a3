"""One experiment from config to scores, which is what `transformer train` runs."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from transformer import devices, parameters, processes
from transformer.checkpoint import Checkpoints
from transformer.checkpoint_arrays import load_params
from transformer.checkpoint_records import CHECKPOINTS, records
from transformer.compilation import Compilations
from transformer.config import Config
from transformer.config_files import to_json
from transformer.data.batches import Batches
from transformer.data.corpus import Pairs, modified_since, splits
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_files import load_tokenizer
from transformer.errors import DivergenceError, InputError, require
from transformer.files import as_json, write_lines, write_whole
from transformer.inference.evaluate import bleu
from transformer.inference.metrics import metrics_of
from transformer.inference.results import read_scores
from transformer.inference.translation import translate
from transformer.inference.translator import load
from transformer.inputs import Inputs, nothing_left_if_refused, read_inputs, training_batches
from transformer.joining import joined
from transformer.kept_pairs import KEPT, keep_pairs
from transformer.layers import Build
from transformer.model import Transformer
from transformer.origin import Origin, load_origin, require_another_run
from transformer.run_dir import (
    DIVERGED,
    HYPOTHESES,
    SCORES,
    adopt,
    check_run,
    hold_run,
    is_trained,
    open_run,
    read_config,
    written,
)
from transformer.runtime import (
    compute_before_returning,
    repeat_results,
    resolve_dtype,
    unused_accelerator,
    use_compilation_cache,
)
from transformer.shapes import Params
from transformer.stages import stage
from transformer.starts import Start, recorded
from transformer.training import loop
from transformer.training.arrangement import arrange
from transformer.training.loggers import require_packages
from transformer.training.profile import require_steps


def run(
    config: Config,
    profile: int | None = None,
    stop_after: int | None = None,
    *,
    command: str = "transformer.train",
) -> None:
    """Trains or resumes a run, then translates and scores the test set.

    A run that is finished and scored under the same config is only reported, without reading any data.

    Args:
        config: The experiment.
        profile: Number of steps to trace for JAX's profiler, which changes no result; None traces nothing.
        stop_after: Step after which to stop without scoring the test set, so that the run can be resumed; None trains
            to the end.
        command: What `starts.jsonl` records as the command.

    Raises:
        InputError: The config, the data or the run directory cannot be used, too few steps are left for `profile`, or
            `stop_after` is no step.
        DivergenceError: A loss, a gradient or an update is not finite (see `training.max_skipped_steps`).
        Interrupted: A deferred signal has arrived.
    """
    if "train" not in splits(config.data):
        raise InputError("No training pairs are given: name them with --data.train (see --help).")
    require_another_run(config)
    if config.deterministic:
        repeat_results()
    if config.compilation_cache:
        use_compilation_cache()
    compute_before_returning()
    if joined():
        resolve_dtype(config.model.dtype)  # which explains why there is no device, before the processes compute
    with nothing_left_if_refused(Path(config.run_dir)), processes.first_prints():
        _run(config, profile, stop_after, command)


def _run(config: Config, profile: int | None, stop_after: int | None, command: str) -> None:
    processes.require_same("The command is", [to_json(config), profile, stop_after])
    processes.agree(partial(check_run, config.run_dir, config))
    require_steps(profile, config)
    require_packages(config.training.loggers)
    require(stop_after is None or stop_after >= 1, f"--stop-after must be at least 1, but is {stop_after}.")
    begun = processes.decided_by_first(lambda: bool(records(config.run_dir)))
    origin, initial = (None, None) if begun else load_origin(config)
    if config.training.freeze:
        parameters.split(parameters.shapes(Transformer(config.model))["params"], config.training.freeze)
    if processes.decided_by_first(lambda: _is_trained(config)):
        scores = processes.agree(lambda: finished_scores(config))
        if all(processes.gathered(scores is not None)):
            with processes.in_first(hold_run(Path(config.run_dir))):
                print(f"The run in {config.run_dir} is already finished. Its scores:\n\n{scores}")
                print(f"\nEverything is in {Path(config.run_dir).resolve()}.\n\n{next_commands(config)}")
            return
        again = " Scoring its test set again." if "test" in splits(config.data) else ""
        print(f"The run in {config.run_dir} is already trained.{again}", flush=True)
    dtype, reason = resolve_dtype(config.model.dtype)
    number = len(devices.everywhere())
    arrangement = arrange(config.parallel, config.model, number, processes.number())
    pairs, tokens, tokenizer, _ = inputs = read_inputs(config)
    where = f"{number} device{'s' if number > 1 else ''}"
    if processes.number() > 1:
        where += f" of {processes.number()} processes"
    how = f", {arrangement}" if arrangement.strategy == "mesh" else ""
    print(f"compute dtype: {dtype} ({reason}) on {where}{how}")
    if (advice := unused_accelerator()) is not None:
        print(advice)
    with stage("packing the training pairs into rows"):
        multiple = config.training.accumulation_steps * arrangement.num_shards
        train_batches = training_batches(config, tokens["train"], multiple)
    S, T, rows = train_batches.shape
    print(f"batch: {rows:,} rows of {S} source and {T} target tokens, {train_batches.padding:.1%} padding")
    steps, per_epoch = config.training.steps, train_batches.per_epoch
    print(f"training: {steps:,} steps ({steps / per_epoch:.1f} epochs of {per_epoch:,} batches)")
    if origin is not None:
        print(f"starting from {origin}")
    validation = evaluate = None
    if "validation" in tokens:
        budget, shards = config.training.batch_tokens, arrangement.num_shards
        validation = Batches(tokens["validation"], config.tokenizer, tokens=budget, row_multiple=shards, seed=None)
        if config.training.validation_bleu:
            evaluate = partial(validation_bleu, config, dtype, tokenizer, pairs["validation"])

    # Before this point, where all input has been checked, nothing is written but tokens.
    processes.by_first(partial(open_run, config.run_dir, config))
    run_dir = Path(config.run_dir).resolve()
    processes.require_shared(run_dir / "config.json")
    start = Start.now(
        devices.kinds(),
        step=max((record.step for record in records(run_dir)), default=0),
        command=command,
        backend=jax.default_backend(),
        processes=processes.number(),
        strategy=str(arrangement),
        dtype=dtype,
        attention=Build.choose(config.model).attention_name(max(S, T)),
    )
    with (
        written(run_dir),
        processes.in_first(hold_run(run_dir)),
        processes.in_first(recorded(run_dir, start, print)),
        Compilations(partial(print, flush=True)) as compilations,
    ):
        print(f"run directory: {run_dir} (Ctrl-C saves and stops; the same command resumes)", flush=True)
        processes.by_first(partial(_begin, run_dir, config, inputs, origin))
        with Checkpoints(run_dir, config.training.keep_last, tokenizer.fingerprint) as checkpoints:
            try:
                loop.train(
                    config,
                    train_batches,
                    validation,
                    checkpoints,
                    dtype=dtype,
                    initial=initial,
                    evaluate=evaluate,
                    profile=profile,
                    stop_after=stop_after,
                )
            except DivergenceError as error:
                if processes.is_first():
                    write_whole(run_dir / DIVERGED, f"{error}\n".encode())
                raise
        saved = processes.decided_by_first(lambda: [record.step for record in records(run_dir)])
        for step in saved[-1:]:
            processes.require_shared(run_dir / CHECKPOINTS / str(step))
        if stop_after is not None and not is_trained(run_dir, config.training):
            print(f"Stopped after step {saved[-1]:,}. The same command without --stop-after resumes.")
            return
        if "test" in pairs:
            with stage("translating and scoring the test set"):
                scores, hypotheses = load(run_dir).evaluate(pairs["test"])
            if processes.is_first():
                write_lines(run_dir / HYPOTHESES, hypotheses)
                write_whole(run_dir / SCORES, scores.to_json().encode())
            print(f"\nScores of the test set:\n\n{scores.to_text()}\n\n{examples(pairs['test'], hypotheses)}")
    print(f"\n{compilations}\nEverything is in {run_dir}.\n\n{next_commands(config)}")


def _is_trained(config: Config) -> bool:
    return (Path(config.run_dir) / "config.json").exists() and is_trained(config.run_dir, config.training)


def _begin(run_dir: Path, config: Config, inputs: Inputs, origin: Origin | None) -> None:
    """Writes what a run has before its first step, and removes what an earlier checkpoint or config has left."""
    for name in (SCORES, HYPOTHESES, DIVERGED):
        (run_dir / name).unlink(missing_ok=True)
    adopt(run_dir, config)
    inputs.tokenizer.save(run_dir / "tokenizer.json")
    if origin is not None:
        origin.save(run_dir)
    write_whole(run_dir / "data.json", as_json(inputs.about))
    for split, own in inputs.pairs.items():
        keep_pairs(run_dir / KEPT[split], own, config.data)


def finished_scores(config: Config) -> str | None:
    """The final scores of a trained run that has nothing left to do, as a table.

    Returns: The scores, or without a test set the last validation loss. None if the config or a data file has changed,
        the last checkpoint cannot be read, or the test set has not been scored.
    """
    run_dir = Path(config.run_dir)
    same = dataclasses.replace(read_config(run_dir), run_dir=config.run_dir) == config
    if not same or (run_dir / DIVERGED).exists() or modified_since(config.data, run_dir / "data.json"):
        return None
    last = records(run_dir)[-1]
    try:
        tokenizer = load_tokenizer(run_dir / "tokenizer.json", config)
        with stage("checking the last checkpoint"):
            load_params(run_dir, [last.step], tokenizer.fingerprint)
        if "test" in splits(config.data):
            return read_scores(run_dir / SCORES).to_text() if (run_dir / HYPOTHESES).exists() else None
    except InputError:
        return None
    return "none" if math.isinf(last.validation_loss) else f"validation loss {last.validation_loss:.3f}"


def examples(pairs: Pairs, hypotheses: list[str], number: int = 5) -> str:
    """A few sentences of the test set with their references and translations."""
    number = min(number, len(hypotheses))
    indices = [len(hypotheses) * (2 * n + 1) // (2 * number) for n in range(number)]
    return "\n\n".join(
        f"source       {pairs.sources[index]}\nreference    {pairs.targets[index]}\ntranslation  {hypotheses[index]}"
        for index in indices
    )


def next_commands(config: Config) -> str:
    """Commands to try after training."""
    return (
        "Translate a sentence of your own:\n"
        f'    echo "The old dog sleeps." | transformer translate {config.run_dir}\n'
        "Show which tokens each token attends to:\n"
        f'    transformer attention {config.run_dir} --source "The old dog sleeps."\n'
        "Train on your own text files, with one sentence per line:\n"
        "    transformer train --data.corpus files --data.train SOURCE TARGET --data.test SOURCE TARGET "
        "--run-dir runs/mine"
    )


def validation_bleu(config: Config, dtype: str, tokenizer: Tokenizer, pairs: Pairs, params: Params) -> dict[str, float]:
    """Translates the validation set greedily and computes its BLEU."""
    model = Transformer(config.model, dtype=jnp.dtype(dtype))
    greedy = dataclasses.replace(config.search, beam_size=1)
    hypotheses = translate(model, params, tokenizer, pairs.sources, greedy)
    return {"validation_bleu": bleu(hypotheses, pairs.targets, metrics=metrics_of(config))}

"""The `transformer plan` command, which says what a training run will cost."""

import dataclasses
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.cli.train import ConfigOptions, StartingPoint, parse_options
from transformer.config import Config
from transformer.planning.targets import devices_of, parse_target, prepare

if TYPE_CHECKING:
    from transformer.planning.plan import Workload


@dataclass(frozen=True)
class PlanOptions(ConfigOptions):
    """Say what a training run will cost, without running a step.

    Prints the memory of parameters, optimizer and activations, the largest batch that fits, FLOPs, the estimated time,
    and the collectives. The training step is compiled for the target, which need not be present. All options of
    `transformer train` are accepted. The padding is that of the training data, if they are given.

        transformer plan --config base
        transformer plan --config wmt14_big --target h100 --full-rows
        transformer plan --config base --data.train a.en a.de --target v5e:2x2 --json
        transformer plan --config wmt14_big --target v5e:4x8 --full-rows --parallel.fsdp 32

    Nothing is written, except tokens if there is a --data.cache."""

    target: str = "local"
    """Hardware to compile for: `local` (this machine), `h100`, `h100xN` (N cards in one machine), or the topology of a
    TPU such as `v5e:2x2`. All but `local` need jax's plugin for a GPU or a TPU, but no device."""
    full_rows: bool = False
    """Do not read the training data, and assume rows without padding."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(arguments: list[str]) -> None:
    """Says what a training run will cost."""
    config, options = parse_options(PlanOptions, arguments, "plan")
    target = parse_target(options.target)
    prepare(target)
    from transformer.runtime import resolve_dtype

    dtype = config.model.dtype
    if dtype == "auto":
        dtype = resolve_dtype(dtype)[0] if target.backend == "local" else "bfloat16"
    devices = devices_of(target)
    from transformer.planning.plan import make_plan
    from transformer.planning.program import arrangement

    work = workload(config, arrangement(config, devices).num_shards, read=not options.full_rows)

    print(f"Compiling for {len(devices)} x {devices[0].device_kind} ...", file=sys.stderr, flush=True)
    recipe = StartingPoint(options.config, options.init_from, options.run_dir).config_to_change()
    plan = make_plan(config, dtype, target, devices, work, recipe.training.batch_tokens)
    print(plan.to_json() if options.json else plan.to_text())


def workload(config: Config, shards: int, *, read: bool) -> "Workload":
    """The batches of a run.

    If the training data are not named, or not to be read, every row is full.

    Args:
        config: The experiment.
        shards: Number of parts of a batch, which all have the same number of rows.
        read: Whether to read the training data.

    Raises: InputError if the data cannot be read, or if a batch is too small for its parts.
    """
    from transformer.data.batches import check_budget
    from transformer.data.corpus import splits
    from transformer.data.token_cache import kept_tokens
    from transformer.inputs import load_or_train_tokenizer, training_batches, training_tokens
    from transformer.planning.plan import Workload
    from transformer.run_dir import TOKENS

    training, multiple = config.training, config.training.accumulation_steps * shards
    length = training.pack_length or config.data.max_length
    if not read or "train" not in splits(config.data):
        check_budget(training.batch_tokens, multiple, length, length)
        return Workload(length, length, training.batch_tokens // length // multiple * multiple)
    tokenizer = load_or_train_tokenizer(config)
    with tempfile.TemporaryDirectory(prefix="transformer-plan-") as folder:
        train = kept_tokens(Path(config.run_dir) / TOKENS, config.data, tokenizer, length)
        if train is None:
            data = dataclasses.replace(config.data, cache=config.data.cache or folder)
            train = training_tokens(dataclasses.replace(config, data=data), tokenizer)
        print(f"train: {train.report}", file=sys.stderr)
        batches = training_batches(config, train.tokens, multiple)
    return Workload(*batches.shape, batches.padding, batches.per_epoch)

"""The run whose parameters a fine-tuned run starts from.

    RUN/origin.json    which run and checkpoints they were, the SHA-256 of the parameters, and the config of that run

Only the start needs the other run. Once the fine-tuned run has a checkpoint, it is resumed from that alone.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

from transformer import parameters, processes
from transformer.changes import other_model
from transformer.config import Config
from transformer.config.fine_tuning import fine_tuning
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_files import load_tokenizer
from transformer.errors import InputError, require
from transformer.files import as_json, write_whole
from transformer.inference.loading import load_chosen, named_checkpoint
from transformer.model import Transformer
from transformer.run_dir import read_config
from transformer.shapes import Params

FILE = "origin.json"


class Origin(NamedTuple):
    """Where the parameters come from.

    run: The other run as it was given, such as `runs/quickstart` or `runs/quickstart@best`.
    steps: Steps of the checkpoints that the parameters are the mean of.
    sha256: SHA-256 of the parameters (`parameters.fingerprint`).
    config: The config of the other run.
    """

    run: str
    steps: list[int]
    sha256: str
    config: Config

    def __str__(self) -> str:
        *others, last = (f"{step:,}" for step in self.steps)
        steps = f"steps {', '.join(others)} and {last}" if others else f"step {last}"
        return f"{self.run}, {steps} (SHA-256 {self.sha256[:12]}...)"

    def save(self, run_dir: Path) -> None:
        """Writes `origin.json` to a run directory."""
        about = self._asdict() | {"config": dataclasses.asdict(self.config)}
        write_whole(run_dir / FILE, as_json(about))


def fine_tuning_config(init_from: str | Path) -> Config:
    """The config to fine-tune a run with; data and run directory are still to be chosen.

        config = transformer.fine_tuning_config("runs/quickstart")
        data = dataclasses.replace(config.data, train=("new.en", "new.de"))
        transformer.train(dataclasses.replace(config, data=data, run_dir="runs/new"))

    Args:
        init_from: The run, and perhaps its checkpoint: RUN, RUN@STEP, RUN@best or RUN@last.

    Raises:
        InputError: RUN is not a run directory.
    """
    return fine_tuning(_config_of(str(init_from)), str(init_from))


def folder(init_from: str) -> Path:
    """The run directory that a value of `Config.init_from` names."""
    return Path(named_checkpoint(init_from, "last")[0])


def require_another_run(config: Config) -> None:
    """Raises InputError if a run is to start from itself."""
    require(
        config.init_from is None or folder(config.init_from).resolve() != Path(config.run_dir).resolve(),
        f"--init-from {config.init_from} is the run directory itself. Give another --run-dir to fine-tune the run, or "
        "leave out --init-from to resume it.",
    )


def load_origin(config: Config) -> tuple[Origin, Params] | tuple[None, None]:
    """Loads the parameters that a run starts from.

    Returns:
        Their origin, and the variables that `Transformer.apply` takes first; None and None if the config names no run.

    Raises:
        InputError: The config names a run that does not exist, has no checkpoint that can be read, or has another
            model, vocabulary or normalization.
    """
    if config.init_from is None:
        return None, None
    run, checkpoint = named_checkpoint(config.init_from, "last")
    origin, tokenizer = processes.agree(partial(_same_model, config.init_from, config))
    say = partial(print, file=sys.stderr, flush=True)
    steps, params = load_chosen(run, checkpoint, None, tokenizer.fingerprint, say)
    parameters.require_fit(Transformer(config.model), params)
    return Origin(config.init_from, steps, parameters.fingerprint(params), origin), params


def _same_model(init_from: str, config: Config) -> tuple[Config, Tokenizer]:
    """The config and the tokenizer of a run that has the model, vocabulary and normalization of a config."""
    origin = _config_of(init_from)
    if reasons := other_model(origin, config):
        raise InputError(
            f"Cannot start from {init_from} with another model: {reasons}. Leave out --config and these options, or "
            "give another --init-from."
        )
    return origin, load_tokenizer(folder(init_from) / "tokenizer.json", config)


def _config_of(init_from: str) -> Config:
    try:
        return read_config(folder(init_from))
    except InputError as error:
        raise InputError(
            f"{error} --init-from takes a run directory; `transformer import` makes one of another program's model."
        ) from error

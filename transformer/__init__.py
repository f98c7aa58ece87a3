"""The encoder-decoder Transformer of "Attention Is All You Need" on JAX.

    transformer.train(config)                       # or `python train.py`
    run = transformer.load("runs/quickstart")       # config, params, tokenizer, model
    run.translate(["The old dog sleeps."])
    run.attention("The old dog sleeps.")            # shown in a notebook
    batch = run.batch(["The old dog sleeps."], ["Der alte Hund schläft."])
    logits, attention = run.apply(run.params, batch.source, batch.target_input, return_weights=True)

`Config` and its parts describe an experiment. `Transformer` is the linen module, and `ops` contains the pure functions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformer.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    SearchConfig,
    TokenizerConfig,
    TrainingConfig,
)
from transformer.errors import InputError

if TYPE_CHECKING:
    from transformer import ops, parameters
    from transformer.experiment import run as train
    from transformer.inference.translator import Translator
    from transformer.model import Transformer
    from transformer.origin import fine_tuning_config
    from transformer.run import Run, load

__all__ = [
    "Config",
    "DataConfig",
    "InputError",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "Run",
    "SearchConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "Transformer",
    "Translator",
    "fine_tuning_config",
    "load",
    "ops",
    "parameters",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports names that need jax on first use, because that import takes seconds."""
    match name:
        case "Transformer":
            value = import_module("transformer.model").Transformer
        case "Translator":
            value = import_module("transformer.inference.translator").Translator
        case "Run" | "load":
            value = getattr(import_module("transformer.run"), name)
        case "train":
            value = import_module("transformer.experiment").run
        case "fine_tuning_config":
            value = import_module("transformer.origin").fine_tuning_config
        case "ops" | "parameters":
            return import_module(f"transformer.{name}")
        case _:
            raise AttributeError(f"module 'transformer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

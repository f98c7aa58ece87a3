"""Every default of the project: frozen dataclasses and their checks, a file for each part.

The command line is made of them (`transformer train --help`), each `configs/*.py` is one of them, and the run directory
keeps the resolved one as `config.json`. An annotation gives a field's type, choices and bounds (`bounds.py`); what
concerns several fields is checked in `__post_init__`.
"""

import os.path
from dataclasses import dataclass, field

from transformer.config.bounds import Natural, check
from transformer.config.data import DataConfig, TokenizerConfig
from transformer.config.model import ModelConfig
from transformer.config.scores import ScoresConfig
from transformer.config.search import SearchConfig
from transformer.config.training import OptimizerConfig, TrainingConfig
from transformer.errors import require

__all__ = [
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScoresConfig",
    "SearchConfig",
    "TokenizerConfig",
    "TrainingConfig",
]


@dataclass(frozen=True)
class Config:
    """One experiment. The defaults are the paper's base model."""

    run_dir: str = "runs/transformer"
    """Directory of everything the run writes; the same command resumes it."""
    seed: Natural = 0
    """Seed of initialization, dropout and batch order."""
    average: int = 1
    """The test set is scored on the average of this many last checkpoints (section 6.1: 5 for base, 20 for big)."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache directory, for the next start."""
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "run_dir", os.path.expanduser(self.run_dir))
        require(
            1 <= self.average <= self.training.keep_last,
            f"average must lie between 1 and training.keep_last ({self.training.keep_last}), but is {self.average}: "
            "only checkpoints that are kept can be averaged.",
        )
        require(
            self.optimizer.schedule != "cosine" or self.optimizer.warmup_steps < self.training.steps,
            f"optimizer.schedule=cosine needs fewer warm-up steps than steps, but optimizer.warmup_steps is "
            f"{self.optimizer.warmup_steps} and training.steps is {self.training.steps}.",
        )
        for name in ("pad_id", "start_id", "end_id"):
            value = getattr(self.tokenizer, name)
            require(
                value < self.model.vocabulary_size,
                f"tokenizer.{name} ({value}) must be below model.vocabulary_size ({self.model.vocabulary_size}).",
            )
        require(
            self.data.max_length <= self.model.max_positions,
            f"data.max_length ({self.data.max_length}) must not exceed model.max_positions "
            f"({self.model.max_positions}).",
        )

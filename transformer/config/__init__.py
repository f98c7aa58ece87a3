"""The config of an experiment, as frozen dataclasses.

They hold every default of the project. The options of `transformer train` are made from them, each `configs/*.py`
defines one, and a run directory keeps the resolved one as `config.json`. The annotation of a field gives its type,
choices and bounds (`bounds.py`). Conditions on several fields are checked in `__post_init__`.

The docstrings of the fields are the text of `--help`. tyro keeps their line breaks, so they are wrapped for a terminal
of 80 columns.
"""

import os.path
from dataclasses import dataclass, field

from transformer.config.bounds import Seed, check
from transformer.config.data import DataConfig, TokenizerConfig
from transformer.config.model import ModelConfig
from transformer.config.parallel import ParallelConfig
from transformer.config.scores import ScoresConfig
from transformer.config.search import SearchConfig
from transformer.config.training import OptimizerConfig, TrainingConfig
from transformer.errors import require

__all__ = [
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "ScoresConfig",
    "SearchConfig",
    "TokenizerConfig",
    "TrainingConfig",
]


@dataclass(frozen=True)
class Config:
    """All settings of one experiment. The defaults are the paper's base model.

    A value of the wrong type, an unknown choice or a value out of bounds raises `InputError`, which names the field.
    `dataclasses.replace` makes a changed copy.
    """

    run_dir: str = "runs/transformer"
    """Directory that the run writes to. The same command resumes an
    interrupted run."""
    init_from: str | None = None
    """Run whose parameters and tokenizer training starts from (fine-tuning),
    instead of random parameters. RUN is its last checkpoint, averaged as
    its own config says; RUN@best and RUN@STEP are others. Without
    --config, the other options then start from that run: its model,
    languages, normalization, search and batch size, with a gentle
    learning rate."""
    seed: Seed = 0
    """Seed of parameter initialization, dropout and batch order."""
    average: int = 1
    """Number of last checkpoints to average before the test set is scored
    (section 6.1: 5 for base, 20 for big)."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache directory, so that later
    runs start faster."""
    deterministic: bool = False
    """Repeat results bit for bit on a GPU, too. XLA then adds in a fixed
    order, and chooses kernels without trying them. The cost has not been
    measured. Nothing changes on a CPU, which repeats its results anyway."""
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "run_dir", os.path.expanduser(self.run_dir))
        if self.init_from is not None:
            object.__setattr__(self, "init_from", os.path.normpath(os.path.expanduser(self.init_from)))
        require(
            1 <= self.average <= self.training.keep_last,
            f"average must be between 1 and training.keep_last ({self.training.keep_last}), but is {self.average}. "
            "Only checkpoints that are kept can be averaged.",
        )
        require(
            self.optimizer.schedule != "cosine" or self.optimizer.warmup_steps < self.training.steps,
            "optimizer.schedule=cosine needs fewer warm-up steps than steps, but optimizer.warmup_steps is "
            f"{self.optimizer.warmup_steps} and training.steps is {self.training.steps}.",
        )
        sizes = self.model.vocabulary_size, self.model.target_size
        for name in ("pad_id", "start_id", "end_id"):
            value = getattr(self.tokenizer, name)
            is_none = self.model.decoder_start == "zeros" and name != "end_id" and value == max(sizes)
            size_name = "model.vocabulary_size" if sizes[0] <= sizes[1] else "model.target_vocabulary_size"
            require(
                value < min(sizes) or is_none,
                f"tokenizer.{name} ({value}) must be below {size_name} ({min(sizes)}).",
            )
        require(
            self.data.max_length <= self.model.max_positions,
            f"data.max_length ({self.data.max_length}) must not exceed model.max_positions "
            f"({self.model.max_positions}).",
        )

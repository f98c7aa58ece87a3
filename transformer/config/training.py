"""The training run and its optimizer."""

from dataclasses import dataclass
from typing import Annotated, Literal

from transformer.config.bounds import Count, Positive, Share, at_least, check
from transformer.errors import require


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its learning rate (section 5.3)."""

    name: Literal["adam", "adamw"] = "adam"
    """`adam` is the paper's; `adamw` adds decoupled weight decay."""
    schedule: Literal["paper", "inverse_sqrt", "cosine", "warmup_stable_decay"] = "paper"
    """`paper` is Eq. 3; the others rise linearly to `peak` in `warmup_steps`, then decay."""
    warmup_steps: Count = 4000
    """Steps of linear warm-up."""
    peak: Positive | None = None
    """Highest learning rate, for every schedule but `paper`, whose peak follows from d_model and warmup_steps."""
    scale: Positive = 1.0
    """Factor on the `paper` schedule."""
    final_fraction: Share = 0.0
    """Share of the steps at the end that decay linearly to 0 (`inverse_sqrt`, `warmup_stable_decay`)."""
    b1: Share = 0.9
    """Adam's decay of the mean gradient."""
    b2: Share = 0.98
    """Adam's decay of the mean squared gradient."""
    epsilon: Positive = 1e-9
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay of `adamw`, on matrices only."""
    clip_norm: Positive | None = None
    """Clip the global norm of the gradient to this."""

    def __post_init__(self) -> None:
        check(self, "optimizer")
        require(
            (self.peak is None) == (self.schedule == "paper"),
            "optimizer.schedule=paper computes its own peak (use optimizer.scale to change it); every other schedule "
            f"needs optimizer.peak. Given: schedule={self.schedule}, peak={self.peak}.",
        )
        require(
            self.weight_decay == 0 or self.name == "adamw",
            f"optimizer.weight_decay={self.weight_decay} needs optimizer.name=adamw.",
        )
        require(
            self.schedule != "warmup_stable_decay" or self.final_fraction > 0,
            "optimizer.schedule=warmup_stable_decay needs optimizer.final_fraction > 0: the share of steps that decay.",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """The training run: how much, how large a batch, what to look at on the way, what to keep."""

    steps: Count = 100_000
    """Optimizer updates in all (section 5.2)."""
    label_smoothing: Share = 0.1
    """Share of the target distribution spread evenly over the vocabulary (section 5.4)."""
    batch_tokens: Count = 25_000
    """Upper bound on the padded source tokens per update, and separately on the padded target tokens, summed over
    devices and accumulation steps (section 5.1; the paper's 25,000 do not count padding). Rounding the row count up may
    exceed it by less than one row per shard."""
    accumulation_steps: Count = 1
    """Micro-batches that each device's share of the batch is computed in, to save memory; the update is the same."""
    pack_length: Annotated[int, at_least(2)] | None = None
    """Tokens per side of a row, into which several sentence pairs are packed. Attention never crosses a pair. Longer
    pairs are dropped and counted. None is `data.max_length`."""
    log_every: Count = 100
    """Steps between two lines of `metrics.jsonl`; there is one at each validation, too."""
    validate_every: Count = 1000
    """Steps between two validations. The last step is always validated."""
    save_every: Count | None = None
    """Steps between two checkpoints; None saves at each validation. The last step is always saved. The best checkpoint
    is the one of lowest validation loss among those saved at a step that was validated."""
    save_minutes: Positive | None = None
    """Also save whenever this many minutes have passed since the last save, only to resume from: such a checkpoint is
    not evaluated, averaged or counted by `keep_last`, and the next one replaces it."""
    validation_bleu: bool = False
    """Translate the validation set greedily at each validation and log BLEU."""
    patience: Count | None = None
    """Stop after this many validations without a lower validation loss."""
    keep_last: Count = 5
    """Checkpoints kept, besides the best one."""

    def __post_init__(self) -> None:
        check(self, "training")

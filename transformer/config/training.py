"""Settings of the optimizer and of the training run."""

from dataclasses import dataclass
from typing import Annotated, Literal

from transformer.config.bounds import Count, Natural, Positive, Share, at_least, check
from transformer.errors import require


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its learning-rate schedule (section 5.3)."""

    name: Literal["adam", "adamw"] = "adam"
    """`adam` is the paper's optimizer. `adamw` adds decoupled weight decay."""
    schedule: Literal["paper", "inverse_sqrt", "cosine", "warmup_stable_decay"] = "paper"
    """Learning-rate schedule. `paper` is Eq. 3. The others rise linearly to
    `peak` over `warmup_steps`. Then `inverse_sqrt` decays as 1 /
    sqrt(step) and `cosine` as half a cosine to 0. `warmup_stable_decay`
    stays at `peak` and decays to 0 at the end."""
    warmup_steps: Count = 4000
    """Number of steps of linear warm-up."""
    peak: Positive | None = None
    """Highest learning rate. Every schedule needs it except `paper`, whose
    peak follows from d_model and warmup_steps."""
    scale: Positive = 1.0
    """Factor on the learning rate of the `paper` schedule."""
    final_fraction: Share = 0.0
    """Share of the steps, at the end, over which the learning rate falls
    linearly to 0 (`inverse_sqrt` and `warmup_stable_decay` only)."""
    b1: Share = 0.9
    """Decay rate of Adam's running mean of the gradient."""
    b2: Share = 0.98
    """Decay rate of Adam's running mean of the squared gradient."""
    epsilon: Positive = 1e-9
    """Constant added to the denominator of Adam's update."""
    weight_decay: float = 0.0
    """Decoupled weight decay of `adamw`, applied to matrices only."""
    clip_norm: Positive | None = None
    """Maximum global norm of the gradient; a larger gradient is scaled down
    to it. None disables clipping."""

    def __post_init__(self) -> None:
        check(self, "optimizer")
        require(
            self.schedule != "paper" or self.peak is None,
            f"optimizer.schedule=paper computes its own peak, but optimizer.peak={self.peak} is given. Use "
            "--optimizer.scale to change the peak, or another --optimizer.schedule.",
        )
        require(
            self.schedule == "paper" or self.peak is not None,
            f"optimizer.schedule={self.schedule} needs a highest learning rate. Give one with --optimizer.peak.",
        )
        require(
            self.weight_decay == 0 or self.name == "adamw",
            f"optimizer.weight_decay={self.weight_decay} needs optimizer.name=adamw.",
        )
        require(
            self.schedule != "warmup_stable_decay" or self.final_fraction > 0,
            "optimizer.schedule=warmup_stable_decay needs optimizer.final_fraction > 0, the share of steps that decay.",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """Number of steps, batch size, and intervals of logging, validating and saving."""

    steps: Count = 100_000
    """Number of optimizer updates (section 5.2)."""
    label_smoothing: Share = 0.1
    """Share of the target distribution that is spread evenly over the
    vocabulary (section 5.4)."""
    batch_tokens: Count = 25_000
    """Upper bound on the padded source tokens per update, and separately on
    the padded target tokens, summed over devices and micro-batches
    (section 5.1). The paper's 25,000 do not count padding. Rounding the
    row count up may exceed it by less than one row per shard."""
    accumulation_steps: Count = 1
    """Number of micro-batches into which each device's part of a batch is
    split, to save memory. The update is the same, except that batch norm
    computes its statistics per micro-batch."""
    pack_length: Annotated[int, at_least(2)] | None = None
    """Length of the rows into which sentence pairs are packed, in tokens per
    side. Attention never crosses a pair. Longer pairs are dropped and
    counted. None is `data.max_length`."""
    log_every: Count = 100
    """Number of steps between two lines of `metrics.jsonl`. Each validation
    also writes one."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Also log to TensorBoard, or to Weights & Biases (offline, without
    using the network), in folders of the run directory. They need the
    extras `tensorboard` and `wandb`."""
    validate_every: Count = 1000
    """Number of steps between two validations. The last step is always
    validated."""
    save_every: Count | None = None
    """Number of steps between two checkpoints. None saves at each
    validation. The last step is always saved. The best checkpoint is the
    one of lowest validation loss among those saved at a step that was
    validated."""
    save_minutes: Positive | None = None
    """Also save whenever this many minutes have passed since the last save.
    Such a checkpoint is only for resuming. It is not evaluated, averaged
    or counted by `keep_last`, and the next checkpoint replaces it."""
    validation_bleu: bool = False
    """At each validation, also translate the validation set greedily and log
    its BLEU."""
    patience: Count | None = None
    """Stop after this many consecutive validations without a lower
    validation loss. None never stops early."""
    max_skipped_steps: Natural = 0
    """Number of steps whose update may be skipped because the loss, the
    gradient or the update is not finite. One more ends the run. 0 ends it
    at the first such step."""
    keep_last: Count = 5
    """Number of last checkpoints to keep, besides the best one."""
    freeze: tuple[str, ...] = ()
    """Parameters that training does not change: patterns of their names,
    such as `embedding`, `encoder/*` or `*/bias`. `*` stands for any text,
    slashes included. A pattern that matches nothing is refused with a
    list of the names."""

    def __post_init__(self) -> None:
        check(self, "training")

"""Counters of the training loop, saved with each checkpoint."""

import math
from typing import NamedTuple


class Counters(NamedTuple):
    """What the training loop counts on the host.

    A resumed run continues from these values, so it logs and stops exactly as an uninterrupted run.

    Attributes:
        loss_sum: Training loss since the last line of the log, summed over target tokens, in nats. Skipped steps have
            no part in it.
        target_tokens: Number of target tokens that the loss was summed over.
        tokens: Number of source and target tokens since the last line of the log.
        positions: Number of source and target positions since the last line of the log, with padding.
        skipped_steps: Number of steps whose update was skipped so far.
        best_loss: Lowest validation loss so far, in nats per target token. None before the first validation.
        validations_since_best: Number of validations since the one with the lowest loss.
    """

    loss_sum: float = 0.0
    target_tokens: float = 0.0
    tokens: float = 0.0
    positions: int = 0
    skipped_steps: int = 0
    best_loss: float | None = None
    validations_since_best: int = 0

    @property
    def loss(self) -> float:
        """Mean training loss since the last line of the log, in nats per target token.

        NaN if every step was skipped.
        """
        return self.loss_sum / self.target_tokens if self.target_tokens else math.nan

    @property
    def padding(self) -> float:
        """Share of the positions since the last line of the log that hold no token."""
        return 1 - self.tokens / self.positions

    def after_batch(self, tokens: float, positions: int) -> "Counters":
        """The counters after a batch with this many tokens and positions."""
        return self._replace(tokens=self.tokens + tokens, positions=self.positions + positions)

    def after_update(self, loss_sum: float, target_tokens: float) -> "Counters":
        """The counters after an update with the given loss, summed over target tokens."""
        return self._replace(loss_sum=self.loss_sum + loss_sum, target_tokens=self.target_tokens + target_tokens)

    def after_skip(self) -> "Counters":
        """The counters after a step whose update was skipped."""
        return self._replace(skipped_steps=self.skipped_steps + 1)

    def after_line(self) -> "Counters":
        """The counters after a line of the log."""
        return self._replace(loss_sum=0.0, target_tokens=0.0, tokens=0.0, positions=0)

    def after_validation(self, loss: float) -> "Counters":
        """The counters after a validation with the given loss.

        Of equal losses, the last is the best.
        """
        if self.best_loss is None or loss <= self.best_loss:
            return self._replace(best_loss=loss, validations_since_best=0)
        return self._replace(validations_since_best=self.validations_since_best + 1)

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether a run stops early because of `training.patience`; None never stops it."""
        return patience is not None and self.validations_since_best >= patience

"""Counters of the training loop, saved with each checkpoint."""

from typing import NamedTuple


class Counters(NamedTuple):
    """What the training loop counts on the host.

    A resumed run continues from these values, so it logs and stops exactly as an uninterrupted run.

    Attributes:
        loss_sum: Training loss since the last line of the log, summed over target tokens, in nats.
        target_tokens: Number of target tokens since the last line of the log.
        best_loss: Lowest validation loss so far, in nats per target token. None before the first validation.
        validations_since_best: Number of validations since the one with the lowest loss.
    """

    loss_sum: float = 0.0
    target_tokens: float = 0.0
    best_loss: float | None = None
    validations_since_best: int = 0

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

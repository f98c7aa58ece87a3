"""What the training loop counts on the host, kept with each checkpoint."""

from typing import NamedTuple


class Counters(NamedTuple):
    """What the training loop counts on the host. With it, a resumed run logs and stops as an uninterrupted one.

    loss_sum: training loss since the last line of the log, in nats.
    target_tokens: target tokens since the last line of the log.
    best_loss: the lowest validation loss so far, in nats per target token.
    validations_since_best: validations after the one with the lowest loss.
    """

    loss_sum: float = 0.0
    target_tokens: float = 0.0
    best_loss: float | None = None
    validations_since_best: int = 0

    def after_validation(self, loss: float) -> "Counters":
        """The counters once a validation has found a loss; the last of equal losses is the best."""
        if self.best_loss is None or loss <= self.best_loss:
            return self._replace(best_loss=loss, validations_since_best=0)
        return self._replace(validations_since_best=self.validations_since_best + 1)

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether a run stops because of `training.patience`."""
        return patience is not None and self.validations_since_best >= patience

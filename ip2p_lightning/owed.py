"""A validation that was due when its run was stopped or killed is made when the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from ip2p_lightning.runs.metrics_log import has_scores


class OwedValidation(Callback):
    """Validates before the first step where the step that a run goes on from was due, and has no scores in the log.

    A checkpoint is saved before the validation of its step, so that a kill or a stop may come between the two.

    Args:
        metrics: the run's log, one JSON object a line.
    """

    def __init__(self, metrics: Path) -> None:
        self.metrics, self.validated, self.began = Path(metrics), -1, False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        due = trainer.global_step and trainer.enable_validation
        if due and (loop.total_batch_idx + 1) % trainer.val_check_batch == 0 and self.owed(trainer):
            trainer.validating = True
            loop.val_loop.run()  # as Lightning does between two steps
            trainer.training = True
        self.began = True

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.validated = trainer.global_step

    def owed(self, trainer: Trainer) -> bool:
        """Whether the weights of this step have no scores yet; every rank is told what rank 0 read."""
        if self.validated == trainer.global_step:
            return False
        if self.began:  # the log may hold this step from weights that the run went back from
            return True
        return bool(trainer.strategy.broadcast(not has_scores(self.metrics, trainer.global_step), src=0))

"""Validation scores, and the pending validation on resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from ip2p_lightning.runs.metrics_log import has_scores


class PendingValidation(Callback):
    """Runs the pending validation on resume if the last checkpointed step was due and has no scores in the log.

    A checkpoint is saved before the validation of its step: a run may be killed or stopped in between.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.validated, self.began = Path(folder), -1, False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        due = trainer.global_step and trainer.enable_validation
        if due and (loop.total_batch_idx + 1) % trainer.val_check_batch == 0 and self.is_pending(trainer):
            trainer.validating = True
            loop.val_loop.run()  # as Lightning does between two steps
            trainer.training = True
        self.began = True

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.validated = trainer.global_step

    def is_pending(self, trainer: Trainer) -> bool:
        """Whether the weights of this step have no scores yet; the same on every rank."""
        if self.validated == trainer.global_step:
            return False
        if self.began:  # the log may hold this step's scores from before a resume at an earlier step
            return True
        return bool(trainer.strategy.broadcast(not has_scores(self.folder, trainer.global_step), src=0))


class ValidationScores(Callback):
    """PSNR and SSIM per task, for the EMA model and for the identity baseline: means over all examples and ranks.

    They are logged last, after the image grids: a step with scores in the log was validated completely.
    """

    NAMES = ("psnr", "ssim", "psnr_identity", "ssim_identity")

    def __init__(self) -> None:
        self.swap: Any = None
        self.latest: dict[str, float] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        # float64: sums over any number of ranks then agree to 1e-6 dB
        shape = (len(self.NAMES) + 1, max(1, len(pl_module.tasks)))
        self.sums = torch.zeros(shape, dtype=torch.float64, device=pl_module.device)
        self.swap = pl_module.averaged()
        self.swap.__enter__()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        for row, name in enumerate(self.NAMES):
            self.sums[row].index_add_(0, outputs["task"], outputs[name].double())
        self.sums[-1].index_add_(0, outputs["task"], torch.ones_like(outputs["psnr"], dtype=torch.float64))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        sums = pl_module._sum_over_ranks(self.sums).cpu()
        tasks = pl_module.tasks or ["all"]
        metrics = {
            f"val/{name}/{task}": float(sums[row, i] / sums[-1, i])
            for row, name in enumerate(self.NAMES)
            for i, task in enumerate(tasks)
            if sums[-1, i] > 0
        }
        for name in self.NAMES:
            values = [v for key, v in metrics.items() if key.startswith(f"val/{name}/")]
            if values:
                metrics[f"val/{name}"] = sum(values) / len(values)
        self.latest = metrics

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.on_exception()
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, trainer.global_step)

    def on_exception(self, *_: Any) -> None:
        """Put the raw weights back."""
        if self.swap is not None:
            self.swap.__exit__(None, None, None)
            self.swap = None

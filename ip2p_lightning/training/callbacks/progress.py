"""The progress bar of a run."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from ip2p_lightning.training.callbacks.loss_log import LossLog


class Progress(ProgressBar):
    """One bar over the run's optimizer steps, with loss, images/s and time left; off a terminal, twice a minute."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: Any = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from tqdm.auto import tqdm

        self.losses = next(c for c in trainer.callbacks if isinstance(c, LossLog))
        if self._enabled and trainer.is_global_zero:
            pause = 1 if sys.stderr.isatty() else 30  # seconds: few lines in a log file
            done = {"total": trainer.max_steps, "initial": trainer.global_step}
            self.bar = tqdm(**done, unit="step", desc="train", mininterval=pause, maxinterval=pause)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if self.bar is None:
            return
        if metrics := self.losses.last:
            text = f"loss {metrics['train/loss']:.4f}, {metrics['train/images_per_s']:.1f} images/s"
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_exception()

    def on_exception(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

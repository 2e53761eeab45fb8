"""Preemption: on a stop request save at the end of the optimizer step and exit with a code that means "continue"."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer

from ip2p_lightning.errors import PreemptedError
from ip2p_lightning.system.signals import ANOTHER, StopRequest
from ip2p_lightning.training.callbacks.checkpointing import Checkpoints


class Preemption(Callback):
    """Saves and stops at the end of the first optimizer step after a stop request on any rank.

    Ranks reduce the request every `agree_every` optimizer steps, which waits for the device. Raises PreemptedError from
    within the fit, after the checkpoint is written.
    """

    def __init__(self, request: StopRequest, checkpoints: Checkpoints, agree_every: int = 1) -> None:
        self.request, self.checkpoints, self.agree_every = request, checkpoints, agree_every
        self.step = -1

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.request.listen()
        self.request.save_first = True
        self.step = trainer.global_step
        self._stop_if_asked(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.request.check()
        if trainer.global_step != self.step:  # between micro-batches accumulated gradients would be lost
            self.step = trainer.global_step
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        asked = self.request.received is not None
        if trainer.world_size > 1:
            if trainer.global_step % self.agree_every:
                return
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if not asked or trainer.global_step >= trainer.max_steps:
            return
        if trainer.global_step != self.checkpoints.saved_step:
            self.checkpoints.save(trainer)
        name = self.request.received.name if self.request.received else ANOTHER
        raise PreemptedError(f"{name} at step {trainer.global_step}; saved; the same command continues")

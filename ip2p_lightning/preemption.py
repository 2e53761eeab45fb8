"""Being asked to stop: save at the end of the optimizer step, then leave with an exit code that says "continue me"."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from lightning.pytorch import Callback, Trainer

from ip2p_lightning.checkpoint import Checkpoints
from ip2p_lightning.errors import PreemptedError
from ip2p_lightning.stops import stops

ANOTHER = "a signal to another rank"


class InterruptedRunError(PreemptedError):
    """Stopped at once, without saving."""

    code = 130


class StopRequest:
    """Remembers the first signal; a second Ctrl-C no longer waits.

    Until somebody is `patient`, who looks at steps' ends, there is nothing to save: the first signal stops at once. It
    raises wherever the process happens to be: files here are whole or absent, and caches skip what is torn.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.patient = False

    def listen(self) -> None:
        """Take over the signals (again: Lightning installs handlers of its own when a fit begins)."""
        self._pid, self._terminals = os.getpid(), [fd for fd in (1, 2) if os.isatty(fd)]
        for number in (*stops(), signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        """Called by Python, between two of its instructions.

        Raises:
            PreemptedError, InterruptedRunError: nobody is patient, or it is the second Ctrl-C.
        """
        if os.getpid() != self._pid:
            return  # a loader's worker: it ends with its run, which got the signal as well
        first, before = self.received is None, self.received
        self.received = before or signal.Signals(number)
        _leave_closed(self._terminals)
        if first and not self.patient:
            error = InterruptedRunError if number == signal.SIGINT else PreemptedError
            raise error(f"{self.received.name} before the first step; the same command continues")
        if number == signal.SIGINT:
            if before == signal.SIGINT:
                # not KeyboardInterrupt: Lightning would turn that into exit code 1
                raise InterruptedRunError("Ctrl-C twice; the same command continues from the last checkpoint")
            print("stopping after this step; Ctrl-C again to stop at once", file=sys.stderr)


def _leave_closed(terminals: list[int]) -> None:
    """Point what was a terminal, and is closed (SIGHUP), to nowhere: a progress bar must not fail before the save."""
    for fd in terminals:
        if not os.isatty(fd):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, fd)
            os.close(nowhere)


class Preemption(Callback):
    """Saves and stops at the first optimizer step's end after a stop request on any rank.

    Args:
        request: what the signal handlers write to.
        checkpoints: does the saving.
        agree_every: optimizer steps between questions to the other ranks; each one waits for the device.

    Raises:
        PreemptedError: from within the fit, after the checkpoint is safe.
    """

    def __init__(self, request: StopRequest, checkpoints: Checkpoints, agree_every: int = 1) -> None:
        self.request, self.checkpoints, self.agree_every = request, checkpoints, agree_every
        self.step = -1

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.request.listen()
        self.request.patient = True
        self.step = trainer.global_step
        self._stop_if_asked(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step != self.step:  # inside an accumulation window gradients would be lost
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

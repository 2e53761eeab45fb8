"""Hang detection: every rank dumps its threads' stacks if no step finishes within `timeout` seconds."""

from __future__ import annotations

import faulthandler
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from ip2p_lightning.training.distributed.launch import STACKS


class HangDetector(Callback):
    """Dumps the stacks of this process's threads into the run's folder, from a thread that does not need the GIL.

    `timeout` is in seconds without a training or validation batch. Nothing is stopped here: the collective's own
    timeout ends the waiting ranks later.
    """

    def __init__(self, folder: Path, timeout: float) -> None:
        self.folder, self.timeout = Path(folder), timeout
        self.file: Any = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if trainer.world_size > 1 and self.file is None:
            self.file = (self.folder / STACKS.format(rank=trainer.global_rank)).open("w")
            self._restart_timer()

    def _restart_timer(self, *args: Any, **kwargs: Any) -> None:
        if self.file is not None:
            faulthandler.dump_traceback_later(self.timeout, repeat=False, file=self.file)

    on_train_start = on_train_batch_end = on_validation_start = on_validation_batch_end = _restart_timer

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Stop the timer and delete an empty file."""
        if self.file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self.file.close()
        self.file, path = None, Path(self.file.name)
        if not path.stat().st_size:
            path.unlink()

    on_exception = teardown

"""A rank that stands still: after `timeout` seconds without a step, every rank writes down where it stands."""

from __future__ import annotations

import faulthandler
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from ip2p_lightning.training.distributed.launch import STACKS


class Watchdog(Callback):
    """Dumps the stacks of this process's threads into the run's folder, from a thread that does not need the GIL.

    It ends nothing: the ranks that wait for the one that hangs are ended by their collective's own timeout, which
    begins later than this one's last step did, so that all stacks are on disk by then.

    Args:
        folder: the run's.
        timeout: seconds without a step, or a validation batch.
    """

    def __init__(self, folder: Path, timeout: float) -> None:
        self.folder, self.timeout = Path(folder), timeout
        self.file: Any = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if trainer.world_size > 1 and self.file is None:
            self.file = (self.folder / STACKS.format(rank=trainer.global_rank)).open("w")
            self._alive()

    def _alive(self, *args: Any, **kwargs: Any) -> None:
        if self.file is not None:
            faulthandler.dump_traceback_later(self.timeout, repeat=False, file=self.file)

    on_train_start = on_train_batch_end = on_validation_start = on_validation_batch_end = _alive

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self.file.close()
        self.file, path = None, Path(self.file.name)
        if not path.stat().st_size:
            path.unlink()

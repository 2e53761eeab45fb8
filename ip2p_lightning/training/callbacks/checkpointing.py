"""When checkpoints are written, and how many are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from ip2p_lightning.runs.checkpoint import FOLDER, checkpoints, checksum_file, identify, load, save
from ip2p_lightning.system.files import require_space, sweep_temporaries


class SafeCheckpointIO(CheckpointIO):
    """Lightning's checkpoints through `save` and `load`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return load(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        checksum_file(Path(path)).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


class Checkpoints(Callback):
    """Save every `every` optimizer steps into the run's `folder`, and keep the newest `keep`.

    Keep at least 2, so that a damaged one has a predecessor.
    """

    def __init__(self, folder: Path, every: int = 200, keep: int = 2) -> None:
        self.folder, self.every, self.keep = Path(folder) / FOLDER, every, keep
        self.saved_step = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            sweep_temporaries(self.folder)
            # parameters, the optimizer's two moments, EMA: four times the weights, and one to spare
            weights = sum(p.numel() * p.element_size() for p in pl_module.parameters() if p.requires_grad)
            require_space(self.folder, 5 * weights)
            identify(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step  # restored by now: do not save it again between two optimizer steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step != self.saved_step and trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self.saved_step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now; only at the end of an optimizer step, where no gradient is half-accumulated."""
        self.saved_step = trainer.global_step
        if trainer.is_global_zero:
            last = [path.stat().st_size for path in checkpoints(self.folder.parent)[:1] if path.is_file()]
            require_space(self.folder, sum(last))
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:06d}.ckpt")
        if trainer.is_global_zero:
            for path in checkpoints(self.folder.parent)[self.keep :]:
                SafeCheckpointIO().remove_checkpoint(path)

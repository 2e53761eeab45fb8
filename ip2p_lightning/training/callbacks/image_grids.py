"""Grids of original, edit and ground truth during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from ip2p_lightning.data.contact_sheet import contact_sheet, to_pixels
from ip2p_lightning.rng import seed_of


class ImageGrids(Callback):
    """[original | edit | ground truth] with the prompt, for the same examples each time: as PNG in the run's `folder`
    and in every logger; `examples` of each task, at most as many as are validated."""

    def __init__(self, folder: Path, examples: int = 3) -> None:
        self.folder, self.count = Path(folder) / "samples", examples
        self.examples: list[Any] | None = None

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.examples is None:
            data = trainer.datamodule
            self.examples = data.fixed_examples(min(self.count, data.val_examples or self.count))
        if not self.examples:
            return
        rows = []
        for example in self.examples:
            original = example.original[None].to(pl_module.device)
            with trainer.precision_plugin.forward_context():  # as Lightning runs validation_step, but not callbacks
                edit = pl_module.edit(original, [example.prompt], [seed_of(pl_module.seed, "grid", example.id)])
            cells = [to_pixels(x) for x in (example.original, edit[0], example.edited)]
            rows.append((f"{example.task}: {example.prompt}", cells))
        sheet = contact_sheet(["original", "edit", "ground truth"], rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        sheet.save(self.folder / f"step-{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("val/grid", [sheet], step=trainer.global_step)

"""Grids of original, edit and ground truth during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from ip2p_lightning.rng import seed_of


class ImageGrids(Callback):
    """[original | edit | ground truth] with the prompt, for the same examples each time: TensorBoard and PNG."""

    def __init__(self, folder: Path, examples: list[Any]) -> None:
        self.folder, self.examples = Path(folder), examples

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not self.examples:
            return
        import numpy as np

        from ip2p_lightning.data.contact_sheet import contact_sheet, to_pixels

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
            board = getattr(logger, "experiment", None)
            if hasattr(board, "add_image"):
                board.add_image("val/grid", np.asarray(sheet), trainer.global_step, dataformats="HWC")

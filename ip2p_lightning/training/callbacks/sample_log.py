"""A log of the examples of each training step: shows that a resumed run loses and repeats none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from ip2p_lightning.system.files import append_line


class SampleLog(Callback):
    """A line for each micro-batch, as it begins, in ``samples.jsonl`` of the run's `folder`.

    Rank r > 0 writes ``samples-rank{r}.jsonl``.

    ``step`` is its optimizer step, from 1 as in ``metrics.jsonl``; ``micro_step`` counts from 1 over the whole run. A
    continued run repeats the lines of the steps that it repeats.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        rank = trainer.global_rank
        place = {"step": trainer.global_step + 1, "micro_step": pl_module.micro_step, "rank": rank}
        shown = {"tasks": list(batch.task), "ids": list(batch.id), "prompts": list(batch.prompt)}
        append_line(self.folder / (f"samples-rank{rank}.jsonl" if rank else "samples.jsonl"), place | shown)

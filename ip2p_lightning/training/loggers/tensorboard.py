"""TensorBoard, in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class TensorBoard(TensorBoardLogger):
    """Writes its events beside the run's metrics; ``callbacks.tensorboard`` adds the HPARAMS tab.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=str(folder), name="", version="", default_hp_metric=False)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int) -> None:
        for image in images:
            self.experiment.add_image(key, np.asarray(image), step, dataformats="HWC")

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any], shares: Mapping[str, float]) -> None:
        self.experiment.add_text("config", _as_markdown(config))
        self.experiment.add_text("data/shares", "\n".join(f"- {k}: {v:.3f}" for k, v in shares.items()))


def _as_markdown(config: Mapping[str, Any]) -> str:
    import yaml

    return "```yaml\n" + yaml.safe_dump(dict(config), sort_keys=False, width=1000) + "```"

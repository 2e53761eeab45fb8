"""Weights & Biases. Account and server come from its own settings (``wandb login``, WANDB_*), never from a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from ip2p_lightning.errors import UserError
from ip2p_lightning.runs.folder import note, read_status


class Wandb(WandbLogger):
    """A run of a project; a continued run continues it.

    Args:
        folder: the run's.
        project: its project.
        offline: write to ``RUN/wandb`` only; ``wandb sync`` sends it later.
    """

    def __init__(self, folder: Path, project: str = "ip2p-lightning", offline: bool = False) -> None:
        self.folder, known = Path(folder), read_status(folder).get("wandb")
        super().__init__(name=self.folder.name, save_dir=folder, project=project, offline=offline, id=known)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run at Weights & Biases, begun when it is first asked for."""
        if self._experiment is None:
            try:
                note(self.folder, wandb=super().experiment.id)
            except wandb.errors.Error as error:
                raise UserError(
                    f"logger=wandb: {error}; log in with `wandb login`, or logger.wandb.offline=true"
                ) from None
        return self._experiment

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any], shares: Mapping[str, float]) -> None:
        self.experiment.config.update({"config": dict(config), "shares": dict(shares)}, allow_val_change=True)

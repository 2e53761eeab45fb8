"""MLflow. The server comes from MLFLOW_TRACKING_URI, never from a config; without one a file beside the runs serves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow  # noqa: F401  what is missing shows where the config is checked
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from ip2p_lightning.runs.folder import note, read_status

SERVER, STORE = "MLFLOW_TRACKING_URI", "mlflow.db"


class Mlflow(MLFlowLogger):
    """A run of an experiment; a continued run continues it.

    Args:
        folder: the run's.
        experiment_name: the experiment; runs are compared within one.
    """

    def __init__(self, folder: Path, experiment_name: str = "ip2p-lightning") -> None:
        self.folder = Path(folder).absolute()
        known = read_status(self.folder).get("mlflow")
        self.continued = known is not None
        super().__init__(
            experiment_name,
            run_name=self.folder.name,
            tracking_uri=os.environ.get(SERVER) or f"sqlite:///{self.folder.parent / STORE}",
            artifact_location=None if SERVER in os.environ else str(self.folder.parent / "mlartifacts"),
            run_id=known,
        )

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """As the run began: MLflow lets nobody change them, but a run may be continued with a few others."""
        if not self.continued:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int) -> None:
        for image in images:
            self.experiment.log_image(self.run_id, image, key=key, step=step)

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any], shares: Mapping[str, float]) -> None:
        note(self.folder, mlflow=self.run_id)
        self.experiment.log_dict(self.run_id, dict(config), "config.yaml")
        self.experiment.log_dict(self.run_id, dict(shares), "shares.json")

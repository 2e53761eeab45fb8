"""MLflow. The server comes from MLFLOW_TRACKING_URI, never from a config; by default it is a file beside the runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow  # noqa: F401  a missing package is an error when the config is checked
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from ip2p_lightning.runs.folder import note, read_status

SERVER, STORE = "MLFLOW_TRACKING_URI", "mlflow.db"


class Mlflow(MLFlowLogger):
    """Logs `folder`'s run to an experiment; a resumed run resumes its MLflow run."""

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
        """Log them at the first start only: MLflow does not allow changes, a resumed run may have some."""
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
